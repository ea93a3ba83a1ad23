"""Reading and checking records: every complaint names the file, the line and the field.

Whatever kind a file holds, one of two comes out: `{"text": …}`, or an episode `{"id": …, "interactions": [...]}`. An
interaction has `query` or `tool_use`, optionally `internal` and `think`, and `answer` or `tool_call` or both; one of a
preference episode has `chosen`, `rejected` and `neutral` in place of its output. Other fields, such as `recall`, are
kept and never shown to a model. `docs/data.md` has an example of every kind.
Source: docs/method.md §13.2, §13.5 and §13.6.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rxt_jax.data.chat_format import messages_to_episode
from rxt_jax.data.config import FaultPolicy, RecordKind
from rxt_jax.data.faults import FaultLog, ReadReport, RecordError
from rxt_jax.data.text import check_text

__all__ = [
    "INPUT_FIELDS",
    "OUTPUT_FIELDS",
    "check_fields",
    "check_interaction",
    "check_record",
    "check_records",
    "parse_json_lines",
    "parse_text_lines",
    "record_texts",
]

INPUT_FIELDS = ("internal", "tool_use", "query")
OUTPUT_FIELDS = ("think", "answer", "tool_call")
ALTERNATIVES = ("chosen", "rejected", "neutral")

_SYNONYMS = {"accepted": "chosen"}
_PAIR_SYNONYMS = {"prompt": "query"}
_EPISODE_FIELDS = frozenset({"id", "system", "interactions", "messages", "steps", "is_long_range", "services", "split"})
_INTERACTION_FIELDS = frozenset({*INPUT_FIELDS, *OUTPUT_FIELDS, *ALTERNATIVES, *_SYNONYMS, "recall", "intent", "asked"})
_ALL_FIELDS = _EPISODE_FIELDS | _INTERACTION_FIELDS | {"text"}


def parse_json_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    """Yield (place, record) for every line that is not empty, or (place, what is wrong with the line)."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{name}, line {number}"
            try:
                yield place, _parse_object(line, place)
            except RecordError as error:
                yield place, error


def parse_text_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    """Yield (place, {"text": line}) for every line of a plain text file that is not empty."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{name}, line {number}"
            try:
                yield place, {"text": _decode(line, place).strip()}
            except RecordError as error:
                yield place, error


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", errors="backslashreplace").rstrip("\n")
        raise RecordError(
            place, f"byte {error.start} is not valid UTF-8; save the file as UTF-8", "invalid_utf8", raw=raw
        ) from None


def _parse_object(line: bytes, place: str) -> dict[str, Any]:
    text = _decode(line, place).rstrip("\r\n")
    try:
        record = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        message = f"not valid JSON ({error.msg}); every line must be one object"
        raise RecordError(f"{place}, column {error.colno}", message, "not_json", raw=text) from None
    except ValueError as error:
        raise RecordError(place, str(error), "not_json", raw=text) from None
    except RecursionError:
        raise RecordError(place, "nested too deeply to be a record", "not_json", raw=text) from None
    if not isinstance(record, dict):
        message = f"expected a JSON object, got {type(record).__name__}"
        raise RecordError(place, message, "not_an_object", raw=record)
    return record


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; JSON would keep the last of two fields of one name and drop the first without a word."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def check_records(
    raw: Iterable[tuple[str, Mapping[str, Any] | RecordError]],
    kind: RecordKind = "episode",
    *,
    fields: Mapping[str, str] | None = None,
    faults: FaultPolicy | None = None,
    report: ReadReport | None = None,
    quarantine: Path | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, checked record) in the order of the file; `fields` maps our names to those of the file.

    Strict (default) raises the first `RecordError`. Tolerant writes bad records to a quarantine file and raises a
    `ValueError` behind the last record if they are more than `faults.max_rate`. `report` gets the counts.
    """
    fields, report = check_fields(fields or {}), report or ReadReport()
    seen: set[str] = set()
    known = _ALL_FIELDS | set(fields.values()) | set(_PAIR_SYNONYMS)
    with FaultLog(faults or FaultPolicy(), report, quarantine) as log:
        for place, found in raw:
            report.read += 1
            try:
                if isinstance(found, RecordError):
                    raise found
                record = check_record(found, place, kind, fields)
                _check_identity(record, place, seen)
            except RecordError as error:
                error.raw = found if error.raw is None else error.raw
                log.reject(error)
                continue
            for name in _unknown(found, known):
                log.unknown_field(name, place)
            report.used += 1
            yield place, record
        log.finish()


def check_fields(fields: Mapping[str, str]) -> Mapping[str, str]:
    """Raise a `ValueError` unless every name that is mapped is one of ours, and no two mean the same."""
    unknown = sorted(set(fields) - _ALL_FIELDS)
    if unknown:
        raise ValueError(
            f"fields maps {', '.join(unknown)}, which no record has; names to map are {', '.join(sorted(_ALL_FIELDS))}"
        )
    if len(set(fields.values())) != len(fields):
        raise ValueError(f"fields maps two names to one: {dict(fields)}")
    return fields


def check_record(
    raw: Mapping[str, Any], place: str, kind: RecordKind, fields: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a record of any kind as a text or an episode, or raise a `RecordError`."""
    record = _renamed(raw, fields) if fields else raw
    match kind:
        case "text":
            _check_text_field(record, "text", place, required=True)
            return dict(record)
        case "interaction":
            check_interaction(record, place)
            return {"interactions": [dict(record)]}
        case "preference_pair":
            pair = {_PAIR_SYNONYMS.get(name, name): value for name, value in record.items()}
            interaction = _check_preferences(pair, place, pair_needed=True)
            identity = {"id": interaction.pop("id")} if "id" in interaction else {}
            return identity | {"interactions": [interaction]}
    if record.get("messages") is not None and kind == "conversation":
        record = messages_to_episode(record, place)
    return _check_episode(record, place, preferences=kind == "preference_episode")


def _check_episode(record: Mapping[str, Any], place: str, *, preferences: bool) -> dict[str, Any]:
    """Check an episode; the older form has its first interaction on top. At least one interaction is needed."""
    interactions = record.get("interactions")
    first = {name: record[name] for name in (*INPUT_FIELDS, *OUTPUT_FIELDS) if record.get(name) is not None}
    if first and interactions is None:
        interactions = []
    if not isinstance(interactions, list):
        found = "nothing" if "interactions" not in record else type(interactions).__name__
        reason = "wrong_type" if record.get("interactions") is not None else "missing_field"
        raise RecordError(place, f"field 'interactions' must be a list, got {found}", reason, "interactions")
    if first:
        rest = {name: value for name, value in record.items() if name not in first}
        record = rest | {"interactions": [first, *interactions]}
        interactions = record["interactions"]
    if not interactions:
        message = "the episode is empty; 'interactions' needs at least one"
        raise RecordError(place, message, "empty_episode", "interactions")
    _check_text_field(record, "system", place)
    _check_steps(record, len(interactions), place)
    if preferences:
        checked = [
            _check_preferences(each, f"{place}, interaction {number}") for number, each in enumerate(interactions)
        ]
        return {**record, "interactions": checked}
    for number, interaction in enumerate(interactions):
        check_interaction(interaction, f"{place}, interaction {number}")
    return record if isinstance(record, dict) else dict(record)


def _check_steps(record: Mapping[str, Any], interactions: int, place: str) -> None:
    """Check what a curriculum says about an episode: how many interactions follow the first one."""
    steps, long_range = record.get("steps"), record.get("is_long_range")
    if long_range is not None and not isinstance(long_range, bool):
        message = f"field 'is_long_range' must be true or false, got {long_range!r}"
        raise RecordError(place, message, "wrong_type", "is_long_range")
    if steps is None:
        return
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise RecordError(place, f"field 'steps' must be a number of at least 1, got {steps!r}", "wrong_type", "steps")
    if interactions < steps + 1:
        message = f"'steps' is {steps}, but only {interactions - 1} interactions follow the first one"
        raise RecordError(place, message, "too_few_interactions", "steps")


def check_interaction(interaction: Any, place: str) -> None:
    """Raise a `RecordError` unless this has exactly one kind of input and some output."""
    _check_input(interaction, place)
    _check_output(interaction, place)
    _check_recall(interaction.get("recall"), place)


def _check_recall(recall: Any, place: str) -> None:
    """Check the annotations of values that evaluation asks for; what it does not read may be anything."""
    if recall is None:
        return
    if not (isinstance(recall, list) and all(isinstance(each, Mapping) for each in recall)):
        raise RecordError(place, "field 'recall' must be a list of objects", "wrong_type", "recall")
    for each in recall:
        value, outdated = each.get("value"), each.get("outdated") or []
        if not isinstance(value, str | int | float) or not str(value).strip():
            message = f"'value' in field 'recall' must be a text that is not empty, or a number, got {value!r}"
            raise RecordError(place, message, "wrong_type", "recall")
        if not (isinstance(outdated, list) and all(isinstance(old, str) for old in outdated)):
            message = f"'outdated' in field 'recall' must be a list of texts, got {outdated!r}"
            raise RecordError(place, message, "wrong_type", "recall")
        for name, needed in (("distance", True), ("candidates", False)):
            number = each.get(name)
            if number is None and not needed:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                message = f"'{name}' in field 'recall' must be a whole number of at least 1, got {number!r}"
                raise RecordError(place, message, "wrong_type", "recall")


def _check_input(interaction: Any, place: str) -> None:
    if not isinstance(interaction, Mapping):
        raise RecordError(place, f"expected an object, got {type(interaction).__name__}", "wrong_type")
    for name in INPUT_FIELDS:
        _check_text_field(interaction, name, place)
    has_query, has_result = bool(interaction.get("query")), bool(interaction.get("tool_use"))
    if has_query and has_result:
        message = "has both 'query' and 'tool_use'; the result of a tool is an interaction of its own"
        raise RecordError(place, message, "two_inputs", "tool_use")
    if not has_query and not has_result:
        message = "has neither 'query' nor 'tool_use'; one of them must hold text"
        raise RecordError(place, message, "missing_field", "query")


def _check_output(output: Mapping[str, Any], place: str) -> None:
    for name in OUTPUT_FIELDS:
        _check_text_field(output, name, place)
    if not output.get("answer") and not output.get("tool_call"):
        message = "has neither 'answer' nor 'tool_call'; one of them must hold text"
        raise RecordError(place, message, "missing_field", "answer")


def _check_text_field(record: Mapping[str, Any], name: str, place: str, *, required: bool = False) -> None:
    value = record.get(name)
    if required and (value is None or value == ""):
        raise RecordError(place, f"field '{name}' must hold text", "missing_field", name)
    if value is None:
        return
    if not isinstance(value, str):
        message = f"field '{name}' must be text or null, got {type(value).__name__}"
        raise RecordError(place, message, "wrong_type", name)
    if not value.isascii():
        try:
            check_text(value)
        except ValueError as error:
            raise RecordError(place, f"field '{name}': {error}", "invalid_unicode", name) from None


def _check_preferences(interaction: Any, place: str, *, pair_needed: bool = False) -> dict[str, Any]:
    """Check one interaction with alternatives; a text alone is an answer, `rejected: null` only updates memory."""
    _check_input(interaction, place)
    checked: dict[str, Any] = {str(_SYNONYMS.get(name, name)): value for name, value in interaction.items()}
    for name in ALTERNATIVES:
        output = checked.get(name)
        if isinstance(output, str):
            output = {"answer": output}
        written = next((each for each in interaction if _SYNONYMS.get(each) == name), name)
        if output is None and (name == "chosen" or (name == "rejected" and pair_needed)):
            raise RecordError(place, f"field '{written}' is missing; it holds the answer", "missing_field", written)
        if output is not None:
            if not isinstance(output, Mapping):
                message = f"field '{written}' must be an object, text or null, got {type(output).__name__}"
                raise RecordError(place, message, "wrong_type", written)
            _check_output(output, f"{place}, '{written}'")
        checked[name] = output
    return checked


def record_texts(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield every text of a checked record that a model may see, one per field: what a tokenizer is trained on."""
    if "text" in record:
        yield record["text"]
    for interaction in record.get("interactions", ()):
        yield from (interaction[name] for name in (*INPUT_FIELDS, *OUTPUT_FIELDS) if interaction.get(name))
        for alternative in ALTERNATIVES:
            output = interaction.get(alternative) or {}
            yield from (output[name] for name in OUTPUT_FIELDS if output.get(name))


def _check_identity(record: Mapping[str, Any], place: str, seen: set[str]) -> None:
    identity = record.get("id")
    if identity is None:
        return
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        message = f"field 'id' must be text or a whole number, got {type(identity).__name__}"
        raise RecordError(place, message, "wrong_type", "id")
    if str(identity) in seen:
        raise RecordError(place, f"the id {identity!r} was used before in this data", "duplicate_id", "id")
    seen.add(str(identity))


def _renamed(value: Any, fields: Mapping[str, str]) -> Any:
    """Give fields our names, on every level that holds fields."""
    if isinstance(value, list):
        return [_renamed(each, fields) for each in value]
    if not isinstance(value, Mapping):
        return value
    ours = {theirs: name for name, theirs in fields.items()}
    hidden = set(fields) - set(ours)  # a mapped name means the mapped field, also where the file has both
    inner = ("interactions", "messages", *ALTERNATIVES, *_SYNONYMS)
    renamed: dict[str, Any] = {}
    for theirs, item in value.items():
        name = str(ours.get(theirs, theirs))
        if theirs not in hidden:
            renamed[name] = _renamed(item, fields) if name in inner else item
    return renamed


def _unknown(record: Mapping[str, Any], known: set[str] | frozenset[str]) -> Iterator[str]:
    """Name the fields of a record and of its interactions that nothing reads."""
    yield from (name for name in record if name not in known)
    for value in record.values():
        if isinstance(value, list):
            for each in value:
                if isinstance(each, Mapping) and not {"role", "slot"} & each.keys():
                    yield from (name for name in each if name not in known)
