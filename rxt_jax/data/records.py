"""Reading and checking records: every complaint names the file, the line and the field.

An episode is `{"id": …, "interactions": [...]}`; an interaction has `query` or `tool_use`, optionally
`internal` and `think`, and `answer` or `tool_call` or both. Other fields, such as `recall`, are kept and
never shown to a model. Source: supervised spec §3.6 and §3.8.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["INPUT_FIELDS", "OUTPUT_FIELDS", "RecordError", "check_episode", "read_episodes", "read_jsonl"]

INPUT_FIELDS = ("internal", "tool_use", "query")
OUTPUT_FIELDS = ("think", "answer", "tool_call")


class RecordError(ValueError):
    """A record that cannot be used, and where it stands."""


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) for every line; empty lines are allowed."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file; expected a jsonl file of records")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecordError(
                    f"{place}, column {error.colno}: not valid JSON ({error.msg}); every line must be one object"
                ) from None
            if not isinstance(record, dict):
                raise RecordError(f"{place}: expected a JSON object, got {type(record).__name__}")
            yield place, record


def read_episodes(path: str | Path) -> list[dict[str, Any]]:
    """Read and check all episodes of a file."""
    episodes = []
    for place, record in read_jsonl(path):
        check_episode(record, place)
        episodes.append(record)
    if not episodes:
        raise RecordError(f"{path}: holds no record; expected one episode per line")
    return episodes


def check_episode(record: Mapping[str, Any], place: str) -> None:
    """Raise a `RecordError` unless this is an episode with at least one complete interaction."""
    interactions = record.get("interactions")
    if not isinstance(interactions, list):
        raise RecordError(f"{place}: field 'interactions' must be a list, got {type(interactions).__name__}")
    if not interactions:
        raise RecordError(f"{place}: the episode is empty; 'interactions' needs at least one")
    for number, interaction in enumerate(interactions):
        check_interaction(interaction, f"{place}, interaction {number}")


def check_interaction(interaction: Any, place: str) -> None:
    """Raise a `RecordError` unless this has exactly one kind of input and some output."""
    if not isinstance(interaction, Mapping):
        raise RecordError(f"{place}: expected an object, got {type(interaction).__name__}")
    for name in (*INPUT_FIELDS, *OUTPUT_FIELDS):
        value = interaction.get(name)
        if value is not None and not isinstance(value, str):
            raise RecordError(f"{place}: field '{name}' must be text or null, got {type(value).__name__}")
    has_query, has_result = bool(interaction.get("query")), bool(interaction.get("tool_use"))
    if has_query and has_result:
        raise RecordError(
            f"{place}: has both 'query' and 'tool_use'; the result of a tool is an interaction of its own"
        )
    if not has_query and not has_result:
        raise RecordError(f"{place}: has neither 'query' nor 'tool_use'; one of them must hold text")
    if not interaction.get("answer") and not interaction.get("tool_call"):
        raise RecordError(f"{place}: has neither 'answer' nor 'tool_call'; one of them must hold text")
