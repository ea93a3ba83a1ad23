"""One conversation as a person typed it: the user's side alone, and what a right answer to a question would name.

    {"id": "t1", "habit": "pets", "turns": [{"user": "my dog is rex"}, {"user": "my dog's name?", "expect": ["Rex"]},
                                            {"user": "And my cat's?", "absent": true}]}

No answers are written: the model speaks for itself, and what it said is what it remembers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rxt_jax.data.faults import RecordError
from rxt_jax.data.prepared import is_prepared
from rxt_jax.data.readers import read_raw
from rxt_jax.data.text import check_text
from rxt_jax.paths import as_path

__all__ = [
    "HAND_TYPED",
    "TypedConversation",
    "TypedTurn",
    "holds_typed_conversations",
    "read_typed_conversations",
]

HAND_TYPED = "hand_typed"
"""The name that stands for the packaged file."""

_PACKAGED = Path(__file__).with_name("conversations.jsonl")
_CONVERSATION_FIELDS = {"id", "habit", "turns"}
_TURN_FIELDS = {"user", "expect", "wrong", "absent"}


@dataclass(frozen=True)
class TypedTurn:
    """A message. `expect` are spellings of the value that a right answer names; `absent`: it was never told.

    `wrong` are values that must not be named, None for those of the other questions; a message with neither
    `expect` nor `absent` is not scored.
    """

    user: str
    expect: tuple[str, ...] = ()
    wrong: tuple[str, ...] | None = None
    absent: bool = False

    @property
    def scored(self) -> bool:
        """Whether an answer to this message is right or wrong."""
        return self.absent or bool(self.expect)


@dataclass(frozen=True)
class TypedConversation:
    """A conversation; `habit` says in a word what is peculiar about how it is typed."""

    id: str
    habit: str
    turns: tuple[TypedTurn, ...]


def holds_typed_conversations(data: str) -> bool:
    """Whether this names the packaged conversations, or a file whose first record has `turns`."""
    if data == HAND_TYPED:
        return True
    if data.startswith("hub:") or is_prepared(data):
        return False
    _, first = next(iter(read_raw(data)), (None, None))
    return isinstance(first, Mapping) and "turns" in first


def read_typed_conversations(data: str = HAND_TYPED) -> list[TypedConversation]:
    """Read and check all conversations of the packaged file or of another one.

    The first bad record raises a `RecordError` that names file, line, turn and field.
    """
    path = _PACKAGED if data == HAND_TYPED else as_path(data)
    conversations: dict[str, TypedConversation] = {}
    for place, record in read_raw(path):
        if isinstance(record, RecordError):
            raise record
        found = _conversation(record, place)
        if found.id in conversations:
            raise RecordError(place, f"the id {found.id!r} was used before in this file", "duplicate_id", "id")
        conversations[found.id] = found
    if not conversations:
        raise RecordError(str(path), "holds no record; expected one conversation per line", "empty_file")
    if not any(turn.scored for each in conversations.values() for turn in each.turns):
        raise RecordError(str(path), "asks nothing; a question has 'expect' or 'absent'", "missing_field", "expect")
    return list(conversations.values())


def _conversation(record: Mapping[str, Any], place: str) -> TypedConversation:
    _refuse_unknown(record, _CONVERSATION_FIELDS, place)
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns:
        raise _wrong_type(record, "turns", "a list of at least one turn", place)
    checked = tuple(_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(turns))
    return TypedConversation(_text(record, "id", place), _text(record, "habit", place), checked)


def _turn(turn: Any, place: str) -> TypedTurn:
    if not isinstance(turn, Mapping):
        raise RecordError(place, f"expected an object with 'user', got {type(turn).__name__}", "wrong_type")
    _refuse_unknown(turn, _TURN_FIELDS, place)
    absent = turn.get("absent", False)
    if not isinstance(absent, bool):
        raise _wrong_type(turn, "absent", "true or false", place)
    if absent and "expect" in turn:
        message = "has both 'expect' and 'absent'; what was never told cannot be expected"
        raise RecordError(place, message, "wrong_type", "absent")
    expect = _texts(turn, "expect", place) if "expect" in turn else ()
    wrong = _texts(turn, "wrong", place) if "wrong" in turn else None
    if "expect" in turn and not expect:
        raise _wrong_type(turn, "expect", "a list of at least one text", place)
    if wrong is not None and not (expect or absent):
        raise RecordError(place, "'wrong' needs a question: 'expect' or 'absent'", "missing_field", "expect")
    both = {each.casefold() for each in expect} & {each.casefold() for each in wrong or ()}
    if both:
        message = f"{min(both)!r} is in 'expect' and in 'wrong': it cannot be right and wrong"
        raise RecordError(place, message, "wrong_type", "wrong")
    return TypedTurn(_text(turn, "user", place), expect, wrong, absent)


def _text(record: Mapping[str, Any], name: str, place: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _wrong_type(record, name, "text that is not empty", place)
    try:
        return check_text(value)
    except ValueError as error:
        raise RecordError(place, f"field '{name}': {error}", "invalid_unicode", name) from None


def _texts(record: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    values = record[name]
    if not isinstance(values, list) or any(not isinstance(each, str) for each in values):
        raise _wrong_type(record, name, "a list of texts", place)
    if not all(any(map(str.isalnum, each)) for each in values):
        raise _wrong_type(record, name, "a list of texts with a letter or a digit", place)
    return tuple(values)


def _wrong_type(record: Mapping[str, Any], name: str, expected: str, place: str) -> RecordError:
    if name not in record:
        return RecordError(place, f"field '{name}' is missing; expected {expected}", "missing_field", name)
    return RecordError(place, f"field '{name}' must be {expected}, got {record[name]!r}", "wrong_type", name)


def _refuse_unknown(record: Mapping[str, Any], known: set[str], place: str) -> None:
    unknown = sorted(set(record) - known)
    if unknown:
        # A misspelt 'expect' would silently turn a question into small talk.
        message = f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}"
        raise RecordError(place, message, "unknown_field", unknown[0])
