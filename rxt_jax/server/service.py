"""Conversations: which memory a turn begins from, and what a completed one leaves.

A turn is committed in a thread of its own: its memory is written to disk, then everything that names it in one
transaction. Only then is it called complete. A turn that is aborted leaves nothing, whenever that happens.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

from rxt_jax.server.engine import Engine
from rxt_jax.server.errors import ApiError, not_found
from rxt_jax.server.index import Commit, ConversationMovedError, Index
from rxt_jax.server.memories import Memories, MissingMemoryError
from rxt_jax.server.memory_files import DamagedMemoryError, ForeignMemoryError
from rxt_jax.server.rows import MemoryState
from rxt_jax.server.turns import Aborted, AbortReason, Ended, Event, Made, Ticket, Turn, Written
from rxt_jax.types import Array, ShapedArray

__all__ = ["BusyError", "Committed", "Leaves", "Origin", "Outcome", "RunningTurn", "Service", "new_id"]

_SWEEP_SECONDS = 1.0


class BusyError(Exception):
    """Another turn of the conversation is running."""


class Origin(NamedTuple):
    """Where a turn begins.

    `memory` is None for a new conversation; `conversation` is the one that the turn moves on, if any.
    """

    memory: str | None = None
    state: MemoryState = MemoryState()
    conversation: str | None = None


class Outcome(NamedTuple):
    """A reply that has ended, and the memory `[L 1 S D]` before and after it (None: none is kept)."""

    ids: list[int]
    complete: bool
    before: ShapedArray
    after: ShapedArray | None


class Leaves(NamedTuple):
    """What a completed turn leaves besides its memory. `body` None: no response is stored."""

    state: MemoryState
    body: dict[str, Any] | None = None
    input: list[dict[str, Any]] | None = None
    prefix: str | None = None


class Committed(NamedTuple):
    """The turn is complete, and on disk where anything of it is kept."""

    leaves: Leaves


class RunningTurn:
    """A turn that was begun."""

    def __init__(self, identity: str, owner: str, engine: Engine):
        self.id, self.owner, self._engine = identity, owner, engine
        self.ticket: Ticket | None = None
        self.ids: list[int] = []
        self.complete = False

    def cancel(self, reason: AbortReason = "cancelled") -> bool:
        """Abort the turn; False where its reply is complete already and will be committed."""
        return self.ticket is not None and self._engine.abort(self.ticket, reason)


class Service:
    """Turns by where they begin. Methods can be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        memories: Memories,
        index: Index,
        *,
        initial_memory: Array,
        conversations_per_owner: int | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self.engine, self.memories, self.index = engine, memories, index
        self._initial, self._most, self._clock = initial_memory, conversations_per_owner, clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="rxt-commit")
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._running: dict[str, RunningTurn] = {}
        self._swept = 0.0

    def close(self, finish_seconds: float = 0.0) -> None:
        """Stop the engine and wait for the last commit."""
        self.engine.stop(finish_seconds)
        self._writer.shutdown()
        self.index.close()

    # --- where a turn begins

    def from_response(self, response: str, owner: str) -> Origin:
        """Begin from the memory after a response: every turn from there is a branch of its own."""
        if self.running(response, owner) is not None:
            raise ApiError(409, f"response {response!r} is not complete yet", code="response_in_progress")
        stored = self.index.response(response, owner)
        param = "previous_response_id"
        if stored is None:
            raise not_found("response", response, code="previous_response_not_found", param=param)
        return self._origin(stored.memory, f"response {response!r}", param)

    def from_conversation(self, conversation: str, owner: str) -> Origin:
        """Begin from where a conversation stands, and move it on."""
        found = self.index.conversation(conversation, owner)
        if found is None:
            raise not_found("conversation", conversation, code="conversation_not_found", param="conversation")
        if found.memory is None:
            return Origin(conversation=conversation)
        origin = self._origin(found.memory, f"conversation {conversation!r}", "conversation")
        return origin._replace(conversation=conversation)

    def from_prefix(self, digests: Sequence[str], owner: str) -> tuple[int, Origin]:
        """Begin from the longest known prefix of a history; tell how many of the digests it covers."""
        found = self.index.prefix(digests, owner)
        if found is None:
            return 0, Origin()
        return found[0] + 1, self._origin(found[1], "this history", "messages")

    @property
    def initial_memory(self) -> Array:
        """The memory before any conversation, `[L 1 S D]`."""
        return self._initial

    def memory(self, origin: Origin) -> ShapedArray:
        """Give the memory that a turn reads."""
        if origin.memory is None:
            return self._initial
        try:
            return self.memories.load(origin.memory)
        except MissingMemoryError:
            raise _expired("what this turn continues") from None
        except ForeignMemoryError as error:
            raise ApiError(400, str(error), code="foreign_memory") from error
        except DamagedMemoryError as error:
            message = f"{error}. Go on from an earlier response."
            raise ApiError(500, message, code="memory_damaged") from error

    # --- turns

    def begin(
        self,
        identity: str,
        owner: str,
        origin: Origin,
        turn: Turn,
        leaves: Callable[[Outcome], Leaves],
        listener: Callable[[Event | Committed], None],
    ) -> RunningTurn:
        """Submit a turn. `leaves` is asked in the end, in another thread, what is to be kept.

        The listener hears the engine's events, without `Written` but with `Committed` at the end. Raises a
        `BusyError` where the conversation has another turn, and what `Engine.submit` raises.
        """
        conversation = origin.conversation
        running = RunningTurn(identity, owner, self.engine)
        self._occupy(conversation, origin, owner)
        with self._lock:
            self._running[identity] = running

        def release() -> None:
            with self._lock:
                self._running.pop(identity, None)
                if conversation is not None:
                    self._busy.discard(conversation)

        def commit(memory: Array | None) -> None:
            try:
                event: Event | Committed = Committed(self._commit(running, origin, turn.memory, memory, leaves))
            except ConversationMovedError as error:
                event = Aborted("conflict", str(error))
            except Exception as error:  # a full disk, say: the client has to hear of it
                event = Aborted("failed", f"the memory of this turn could not be kept: {error}")
            release()
            listener(event)

        def hear(event: Event) -> None:
            if isinstance(event, Written):
                self._writer.submit(commit, event.memory)
                return
            if isinstance(event, Made):
                running.ids += event.ids
            elif isinstance(event, Ended):
                running.complete = event.complete
            elif isinstance(event, Aborted):
                release()
            listener(event)
            if isinstance(event, Ended) and not turn.keeps_memory:
                self._writer.submit(commit, None)

        try:
            running.ticket = self.engine.submit(turn, hear)
        except BaseException:
            release()
            raise
        return running

    def running(self, identity: str, owner: str) -> RunningTurn | None:
        """Find a turn of an owner that is not over."""
        with self._lock:
            running = self._running.get(identity)
        return running if running is not None and running.owner == owner else None

    def is_busy(self, conversation: str) -> bool:
        """Whether a conversation has a turn."""
        with self._lock:
            return conversation in self._busy

    # --- conversations

    def create_conversation(self, owner: str, metadata: dict[str, str]) -> str:
        """Begin a conversation."""
        if self._most is not None and self.index.count_conversations(owner) >= self._most:
            message = f"this key has {self._most} conversations, which is its limit. Delete some."
            raise ApiError(429, message, code="conversation_limit")
        identity = new_id("conv")
        self.index.create_conversation(identity, owner, self._clock(), metadata)
        return identity

    def set_memory(self, conversation: str, owner: str, content: bytes) -> None:
        """Let a conversation go on from the content of a memory file; it is refused where it is another model's."""
        memory = self.memories.parse(content, source="the body")
        state = MemoryState.from_json(memory.state, "the body").to_json()
        origin = self.from_conversation(conversation, owner)
        self._occupy(conversation, origin, owner)
        try:
            name = new_id("mem")
            commit = Commit(
                owner=owner,
                time=self._clock(),
                memory=name,
                bytes=self.memories.save(name, memory.values, state),
                state=state,
                conversation=conversation,
                conversation_memory=origin.memory,
            )
            self.index.commit(commit)
        finally:
            with self._lock:
                self._busy.discard(conversation)

    def memory_content(self, origin: Origin) -> bytes:
        """Give the content of the file of a stored memory."""
        try:
            return self.memories.content(origin.memory or "")
        except MissingMemoryError:
            raise _expired("what this names") from None

    def _origin(self, memory: str | None, what: str, param: str) -> Origin:
        if memory is None:
            message = f"{what} kept no memory, so nothing can follow it"
            raise ApiError(400, message, code="memory_not_kept", param=param)
        record = self.index.memory(memory)
        if record is None:
            raise _expired(what, param)
        return Origin(memory, MemoryState(**record.state))

    def _occupy(self, conversation: str | None, origin: Origin, owner: str) -> None:
        """Make the conversation busy, or raise a `BusyError`."""
        if conversation is None:
            return
        with self._lock:
            if conversation in self._busy:
                raise BusyError(conversation)
            self._busy.add(conversation)
        found = self.index.conversation(conversation, owner)
        if found is None or found.memory != origin.memory:
            # It has moved on since the origin was looked up.
            with self._lock:
                self._busy.discard(conversation)
            raise BusyError(conversation)

    def _commit(
        self,
        running: RunningTurn,
        origin: Origin,
        before: ShapedArray,
        memory: Array | None,
        leaves: Callable[[Outcome], Leaves],
    ) -> Leaves:
        left = leaves(Outcome(running.ids, running.complete, before, memory))
        if memory is None:
            return left
        name, now = new_id("mem"), self._clock()
        state = replace(left.state, tokens=left.state.tokens + len(running.ids)).to_json()
        commit = Commit(
            owner=running.owner,
            time=now,
            memory=name,
            bytes=self.memories.save(name, memory, state),
            state=state,
            response=None if left.body is None else running.id,
            body=left.body,
            input=left.input,
            conversation=origin.conversation,
            conversation_memory=origin.memory,
            prefix=left.prefix,
        )
        try:
            self.index.commit(commit)
        except BaseException:
            self.memories.discard(name)
            raise
        if now - self._swept >= _SWEEP_SECONDS:
            self._swept = now
            self.memories.sweep(running.owner)
        return left


def new_id(kind: str) -> str:
    """Make an id that nobody can guess."""
    return f"{kind}_{uuid.uuid4().hex}"


def _expired(what: str, param: str | None = None) -> ApiError:
    message = f"the memory of {what} is gone: it was not used for too long, or other memories needed its room"
    return ApiError(404, message, code="memory_expired", param=param)
