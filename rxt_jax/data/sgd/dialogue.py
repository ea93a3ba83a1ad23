"""A dialogue of the published Schema-Guided Dialogue data set as an episode.

A turn of the user and the turn of the system after it are an interaction. Where the system called a service before it
answered, they are two: `query` → `tool_call`, then `tool_use` → `answer`. A call is written as the object of its
parameters with the method under `tool`; its result is the first entity that was found, `{}` for none. Values that may
have to be recalled are the parameters of a call, and those parts of an answer that the data set marks as values.
Source: README of google-research-datasets/dstc8-schema-guided-dialogue, "Dialogue Representation".
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from rxt_jax.data.faults import RecordError
from rxt_jax.data.sgd.recall import with_recall

__all__ = ["dialogue_to_episode"]

Kind = TypeVar("Kind", str, int, list, dict)
Pairs = list[tuple[str, str]]

_SPEAKERS = ("USER", "SYSTEM")
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def dialogue_to_episode(dialogue: Any, file: str, number: int) -> dict[str, Any]:
    """Return the episode of the dialogue that is `number` in its file.

    A dialogue that is not as published is a `RecordError` that names the file, the dialogue, the turn and the field.
    """
    place = f"{file}, dialogue number {number}"
    if not isinstance(dialogue, Mapping):
        raise RecordError(place, f"expected an object, got {type(dialogue).__name__}", "not_an_object")
    identity = _text(dialogue, "dialogue_id", place)
    place = f"{file}, dialogue {identity}"
    services = _field(dialogue, "services", list, place)
    if not all(isinstance(service, str) for service in services):
        raise RecordError(place, "field 'services' must be a list of names", "wrong_type", "services")
    interactions, values = [], []
    for interaction, pairs in _interactions(_field(dialogue, "turns", list, place), place):
        interactions.append(interaction)
        values.append(pairs)
    return {"id": identity, "services": services, "interactions": with_recall(interactions, values)}


def _interactions(turns: list[Any], place: str) -> Iterator[tuple[dict[str, Any], Pairs]]:
    """Yield interactions, each with the values that its output holds."""
    if not turns:
        raise RecordError(place, "the dialogue is empty; 'turns' needs at least two", "empty_episode", "turns")
    if len(turns) % 2:
        message = f"the dialogue has {len(turns)} turns, so the last one has no answer of the SYSTEM"
        raise RecordError(place, message, "role_order", "turns")
    query = ""
    for number, turn in enumerate(turns):
        here, due = f"{place}, turn {number}", _SPEAKERS[number % 2]
        if not isinstance(turn, Mapping):
            raise RecordError(here, f"expected an object, got {type(turn).__name__}", "wrong_type")
        speaker, utterance = _text(turn, "speaker", here), _text(turn, "utterance", here)
        if speaker not in _SPEAKERS:
            raise RecordError(here, f"field 'speaker' must be USER or SYSTEM, got {speaker!r}", "bad_role", "speaker")
        if speaker != due:
            message = f"field 'speaker' must be {due}, got {speaker}; USER begins, and the two take turns"
            raise RecordError(here, message, "role_order", "speaker")
        if speaker == "USER":
            query = utterance
        else:
            yield from _reply(turn, query, utterance, here)


def _reply(turn: Mapping[str, Any], query: str, utterance: str, place: str) -> Iterator[tuple[dict[str, Any], Pairs]]:
    """Yield what the system does with a query: the calls of services, if any, and the answer."""
    asked, spans = {"query": query}, []
    for number, frame in enumerate(_field(turn, "frames", list, place)):
        path = f"frames[{number}]"
        if not isinstance(frame, Mapping):
            raise RecordError(
                place, f"field '{path}' must be an object, got {type(frame).__name__}", "wrong_type", path
            )
        spans += _spans(frame, utterance, path, place)
        call = _call(frame, path, place)
        if call is not None:
            method, parameters, found = call
            yield (
                {**asked, "answer": None, "tool_call": _written({"tool": method, **parameters})},
                [*parameters.items()],
            )
            asked = {"tool_use": _written(found)}
    yield {**asked, "answer": utterance}, spans


def _spans(frame: Mapping[str, Any], utterance: str, path: str, place: str) -> Pairs:
    """List the slots whose values the utterance holds, with the value as it stands there."""
    spans = []
    for number, span in enumerate(_field(frame, f"{path}.slots", list, place, [])):
        here = f"{path}.slots[{number}]"
        if not isinstance(span, Mapping):
            raise RecordError(place, f"field '{here}' must be an object, got {type(span).__name__}", "wrong_type", here)
        slot = _text(span, f"{here}.slot", place)
        start, end = (_field(span, f"{here}.{name}", int, place) for name in ("start", "exclusive_end"))
        if not 0 <= start < end <= len(utterance):
            message = (
                f"field '{here}' marks the characters from {start} to {end}; expected a part of the utterance, which "
                f"has {len(utterance)}"
            )
            raise RecordError(place, message, "bad_span", here)
        spans.append((slot, utterance[start:end]))
    return spans


def _call(frame: Mapping[str, Any], path: str, place: str) -> tuple[str, Mapping[str, str], Mapping[str, str]] | None:
    """Return method, parameters and the first entity found, None where no service was called."""
    results = _field(frame, f"{path}.service_results", list, place, [])
    if frame.get("service_call") is None:
        if results:
            message = f"field '{path}.service_results' needs 'service_call' beside it"
            raise RecordError(place, message, "missing_field", f"{path}.service_call")
        return None
    call = _field(frame, f"{path}.service_call", dict, place)
    method = _text(call, f"{path}.service_call.method", place)
    parameters = _field(call, f"{path}.service_call.parameters", dict, place)
    if "tool" in parameters:
        message = f"field '{path}.service_call.parameters' must not hold 'tool', which is our name for the method"
        raise RecordError(place, message, "bad_tool_call", f"{path}.service_call.parameters")
    found = results[0] if results else {}
    for name, value in (("service_call.parameters", parameters), ("service_results[0]", found)):
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            message = f"field '{path}.{name}' must be an object that gives a text for every slot, got {value!r}"
            raise RecordError(place, message, "wrong_type", f"{path}.{name}")
    return method, parameters, found


def _written(value: Mapping[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(holder: Mapping[str, Any], path: str, place: str) -> str:
    """Take a text that must not be empty."""
    value = _field(holder, path, str, place)
    if not value.strip():
        raise RecordError(place, f"field '{path}' must hold text, got an empty one", "missing_field", path)
    return value


def _field(holder: Mapping[str, Any], path: str, kind: type[Kind], place: str, default: Kind | None = None) -> Kind:
    """Take a field of one kind; `path` is where it stands in the turn, its last part the name in `holder`."""
    name = path.rpartition(".")[2]
    value = holder.get(name, default)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    if name not in holder:
        raise RecordError(place, f"field '{path}' is missing; expected {_KINDS[kind]}", "missing_field", path)
    message = f"field '{path}' must be {_KINDS[kind]}, got {type(value).__name__}"
    raise RecordError(place, message, "wrong_type", path)
