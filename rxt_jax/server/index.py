"""The index: which responses, conversations and prefixes there are, whose they are, and the memory each one names.

An SQLite file in WAL mode: a commit is there whole or not at all, and reading waits for no writer. Several processes
may share it on one machine.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Commit", "Conversation", "ConversationMovedError", "Index", "MemoryRecord", "Response"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS memories (name TEXT PRIMARY KEY, owner TEXT, bytes INTEGER, used REAL, state TEXT);
CREATE TABLE IF NOT EXISTS responses
    (id TEXT PRIMARY KEY, owner TEXT, memory TEXT, created REAL, body TEXT, input TEXT, conversation TEXT);
CREATE TABLE IF NOT EXISTS conversations
    (id TEXT PRIMARY KEY, owner TEXT, memory TEXT, created REAL, used REAL, metadata TEXT);
CREATE TABLE IF NOT EXISTS prefixes (digest TEXT, owner TEXT, memory TEXT, PRIMARY KEY (digest, owner));
CREATE INDEX IF NOT EXISTS memories_by_use ON memories (used);
CREATE INDEX IF NOT EXISTS memories_by_owner ON memories (owner, used);
CREATE INDEX IF NOT EXISTS responses_by_memory ON responses (memory);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (created);
CREATE INDEX IF NOT EXISTS conversations_by_memory ON conversations (memory);
CREATE INDEX IF NOT EXISTS conversations_by_owner ON conversations (owner);
CREATE INDEX IF NOT EXISTS prefixes_by_memory ON prefixes (memory);
"""
_ADDED = "ALTER TABLE responses ADD COLUMN conversation TEXT"
"""What the tables of earlier versions lack."""
_LATER = "CREATE INDEX IF NOT EXISTS responses_by_conversation ON responses (conversation)"
_REFERRED = """
    EXISTS (SELECT 1 FROM responses WHERE responses.memory = name)
    OR EXISTS (SELECT 1 FROM conversations WHERE conversations.memory = name)
    OR EXISTS (SELECT 1 FROM prefixes WHERE prefixes.memory = name)
"""


class ConversationMovedError(Exception):
    """Another turn of the conversation was committed meanwhile, or it was deleted."""


class MemoryRecord(NamedTuple):
    """A memory on disk. `state` is what its turns left besides: tokens so far, open tool calls, instructions."""

    name: str
    owner: str
    bytes: int
    used: float
    state: dict[str, Any]


class Response(NamedTuple):
    """A stored response; `memory` None: it cannot be continued."""

    id: str
    memory: str | None
    body: dict[str, Any]
    input: list[dict[str, Any]]


class Conversation(NamedTuple):
    """A conversation; `memory` None: it has no turn yet."""

    id: str
    memory: str | None
    created: float
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What a completed turn leaves, all of it in one transaction."""

    owner: str
    time: float
    memory: str | None = None
    bytes: int = 0
    state: dict[str, Any] | None = None
    response: str | None = None
    body: dict[str, Any] | None = None
    input: list[dict[str, Any]] | None = None
    conversation: str | None = None
    conversation_memory: str | None = None
    """The memory that the conversation had when the turn began."""
    prefix: str | None = None


class Index:
    """The tables, by what is asked of them. Methods can be called from any thread."""

    def __init__(self, file: Path):
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
        # FULL: a commit is on the disk when it returns, whatever happens to the machine.
        self._connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
        with contextlib.suppress(sqlite3.OperationalError):  # it is there already
            self._connection.execute(_ADDED)
        self._connection.execute(_LATER)
        self._reader = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
        self._reading = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._reading:
            self._reader.close()
            self._connection.close()

    def commit(self, what: Commit) -> None:
        """Write what a turn leaves. Raises a `ConversationMovedError`, and writes nothing, where it comes too late."""
        with self._transaction() as write:
            if what.memory is not None:
                values = (what.memory, what.owner, what.bytes, what.time, json.dumps(what.state or {}))
                write("INSERT INTO memories VALUES (?, ?, ?, ?, ?)", values)
            if what.response is not None:
                body, given = json.dumps(what.body), json.dumps(what.input)
                values = (what.response, what.owner, what.memory, what.time, body, given, what.conversation)
                write("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            if what.prefix is not None:
                write("INSERT OR REPLACE INTO prefixes VALUES (?, ?, ?)", (what.prefix, what.owner, what.memory))
            if what.conversation is not None:
                values = (what.memory, what.time, what.conversation, what.owner, what.conversation_memory)
                moved = write(
                    "UPDATE conversations SET memory = ?, used = ? WHERE id = ? AND owner = ? AND memory IS ?", values
                )
                if not moved:
                    raise ConversationMovedError(f"conversation {what.conversation} has moved on or was deleted")

    def memory(self, name: str) -> MemoryRecord | None:
        """Find a memory."""
        rows = self._read("SELECT name, owner, bytes, used, state FROM memories WHERE name = ?", (name,))
        return _memory_record(rows[0]) if rows else None

    def response(self, response: str, owner: str) -> Response | None:
        """Find a response of an owner."""
        query = "SELECT id, memory, body, input FROM responses WHERE id = ? AND owner = ?"
        rows = self._read(query, (response, owner))
        return _response(rows[0]) if rows else None

    def responses(self, conversation: str, owner: str) -> list[Response]:
        """List the stored responses of a conversation, oldest first."""
        query = "SELECT id, memory, body, input FROM responses WHERE conversation = ? AND owner = ? ORDER BY rowid"
        return [_response(row) for row in self._read(query, (conversation, owner))]

    def conversation(self, conversation: str, owner: str) -> Conversation | None:
        """Find a conversation of an owner."""
        query = "SELECT id, memory, created, metadata FROM conversations WHERE id = ? AND owner = ?"
        rows = self._read(query, (conversation, owner))
        if not rows:
            return None
        identity, memory, created, metadata = rows[0]
        return Conversation(identity, memory, created, json.loads(metadata))

    def prefix(self, digests: Sequence[str], owner: str) -> tuple[int, str] | None:
        """Find the last of these digests that is known: its place, and its memory."""
        for place in reversed(range(len(digests))):
            query = "SELECT memory FROM prefixes JOIN memories ON memory = name WHERE digest = ? AND prefixes.owner = ?"
            if rows := self._read(query, (digests[place], owner)):
                return place, rows[0][0]
        return None

    def create_conversation(
        self, conversation: str, owner: str, time: float, metadata: dict[str, str], memory: str | None = None
    ) -> None:
        """Begin a conversation, from nothing or from a memory."""
        with self._transaction() as write:
            values = (conversation, owner, memory, time, time, json.dumps(metadata))
            write("INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)", values)

    def set_metadata(self, conversation: str, owner: str, metadata: dict[str, str]) -> None:
        """Replace what a client wrote about a conversation."""
        with self._transaction() as write:
            values = (json.dumps(metadata), conversation, owner)
            write("UPDATE conversations SET metadata = ? WHERE id = ? AND owner = ?", values)

    def delete_conversation(self, conversation: str, owner: str) -> bool:
        """Forget a conversation; whether there was one."""
        with self._transaction() as write:
            return write("DELETE FROM conversations WHERE id = ? AND owner = ?", (conversation, owner)) > 0

    def delete_response(self, response: str, owner: str) -> bool:
        """Forget a response; whether there was one."""
        with self._transaction() as write:
            return write("DELETE FROM responses WHERE id = ? AND owner = ?", (response, owner)) > 0

    def count_conversations(self, owner: str) -> int:
        """Count the conversations of an owner."""
        return self._read("SELECT COUNT(*) FROM conversations WHERE owner = ?", (owner,))[0][0]

    def touch(self, times: Mapping[str, float]) -> None:
        """Note when memories were used."""
        if not times:
            return
        with self._transaction() as write:
            for name, time in times.items():
                write("UPDATE memories SET used = ? WHERE name = ?", (time, name))

    def names(self) -> set[str]:
        """List all memories."""
        return {name for (name,) in self._read("SELECT name FROM memories")}

    def total_bytes(self, owner: str | None = None) -> int:
        """Add up the bytes of all memories, or of an owner's."""
        where, values = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
        return self._read(f"SELECT COALESCE(SUM(bytes), 0) FROM memories{where}", values)[0][0]

    def least_recently_used(self, owner: str | None = None) -> Iterator[MemoryRecord]:
        """Give memories, of all or of an owner, the one that was not used for longest first."""
        where, values = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
        query = f"SELECT name, owner, bytes, used, state FROM memories{where} ORDER BY used LIMIT 100"
        yield from map(_memory_record, self._read(query, values))

    def drop_memories(self, names: Sequence[str]) -> None:
        """Take memories off the list. Responses stay and say that they cannot be continued."""
        with self._transaction() as write:
            for name in names:
                write("DELETE FROM memories WHERE name = ?", (name,))
                write("DELETE FROM prefixes WHERE memory = ?", (name,))

    def drop_before(self, time: float) -> None:
        """Forget conversations, and responses, that nobody has used since a time."""
        with self._transaction() as write:
            in_use = "EXISTS (SELECT 1 FROM memories WHERE name = memory AND used >= ?)"
            write(f"DELETE FROM responses WHERE created < ? AND NOT {in_use}", (time, time))
            write("DELETE FROM conversations WHERE used < ?", (time,))

    def unreferred(self) -> list[str]:
        """List memories that nothing names any more."""
        return [name for (name,) in self._read(f"SELECT name FROM memories WHERE NOT ({_REFERRED})")]

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        def write(query: str, values: Sequence[Any]) -> int:
            return self._connection.execute(query, values).rowcount

        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield write
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _response(row: tuple) -> Response:
    identity, memory, body, given = row
    return Response(identity, memory, json.loads(body), json.loads(given))


def _memory_record(row: tuple) -> MemoryRecord:
    name, owner, size, used, state = row
    return MemoryRecord(name, owner, size, used, json.loads(state))
