"""Curriculum containers: data sets of episodes by their number of steps, from short to long.

A container is a folder with one subfolder per entry, `steps-4`, `steps-8`, `steps-8-lr` (long range), each with
`train.jsonl` and perhaps `validation.jsonl`; or a JSON file with a list of entries. `steps` counts the interactions
that follow the first. Source: docs/method.md §13.5.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rxt_jax.data.config import FileData
from rxt_jax.data.faults import RecordError
from rxt_jax.paths import as_path

__all__ = ["Curriculum", "CurriculumEntry", "read_curriculum"]

_FOLDER_NAME = re.compile(r"steps-(\d+)(-lr)?")
_FIELDS = {"steps": int, "is_long_range": bool, "dataset": str, "eval_dataset": str}


@dataclass(frozen=True, kw_only=True)
class CurriculumEntry:
    """One step of a curriculum. Field names are those of its container (docs/data.md)."""

    steps: int
    """Interactions of an episode after the first one."""
    is_long_range: bool
    """Whether the last interaction returns to the topic of the first."""
    dataset: FileData
    """What is trained on."""
    eval_dataset: FileData | None = None
    """What is measured on; None = what the recipe says."""

    @property
    def max_interactions(self) -> int:
        """Return how many interactions of an episode are used: the first one and the steps."""
        return self.steps + 1


@dataclass(frozen=True)
class Curriculum:
    """Entries in the order of training; `curriculum(4, False)` finds one by its steps, None if there is none."""

    entries: tuple[CurriculumEntry, ...]

    def __call__(self, steps: int, is_long_range: bool = False) -> CurriculumEntry | None:
        wanted = (steps, is_long_range)
        return next((entry for entry in self.entries if (entry.steps, entry.is_long_range) == wanted), None)

    def __getitem__(self, number: int) -> CurriculumEntry:
        return self.entries[number]

    def __iter__(self) -> Iterator[CurriculumEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def read_curriculum(path: str | Path, like: FileData | None = None) -> Curriculum:
    """Read a container; `like` gives what its files have in common: kind, names of fields, what to do with faults."""
    path = as_path(path)
    like = like or FileData(path="")
    if path.is_dir():
        entries = _entries_of_folder(path, like)
    elif path.is_file():
        entries = _entries_of_file(path, like)
    else:
        raise FileNotFoundError(f"{path} does not exist; expected a folder with steps-4, steps-8-lr … or a JSON file")
    if not entries:
        raise RecordError(str(path), "holds no entry; expected folders such as steps-4 or steps-8-lr", "empty_file")
    if len({(entry.steps, entry.is_long_range) for entry in entries}) < len(entries):
        raise RecordError(str(path), "has two entries with the same steps and is_long_range", "duplicate_id", "steps")
    return Curriculum(tuple(entries))


def _entries_of_folder(path: Path, like: FileData) -> list[CurriculumEntry]:
    entries = []
    for folder in path.iterdir():
        found = _FOLDER_NAME.fullmatch(folder.name)
        if found is None or not folder.is_dir():
            continue
        train, validation = folder / "train.jsonl", folder / "validation.jsonl"
        if not train.is_file():
            raise FileNotFoundError(f"{train} does not exist; every entry of a curriculum needs it")
        entries.append(
            CurriculumEntry(
                steps=int(found.group(1)),
                is_long_range=found.group(2) is not None,
                dataset=replace(like, path=str(train)),
                eval_dataset=replace(like, path=str(validation)) if validation.is_file() else None,
            )
        )
    return sorted(entries, key=lambda entry: (entry.is_long_range, entry.steps))


def _entries_of_file(path: Path, like: FileData) -> list[CurriculumEntry]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(str(path), f"not valid JSON ({error}); expected a list of entries", "not_json") from None
    if not isinstance(listed, list):
        raise RecordError(str(path), f"expected a list of entries, got {type(listed).__name__}", "wrong_type")
    return [_entry(each, f"{path}, entry {number}", path.parent, like) for number, each in enumerate(listed)]


def _entry(entry: Any, place: str, folder: Path, like: FileData) -> CurriculumEntry:
    if not isinstance(entry, dict):
        raise RecordError(place, f"expected an object, got {type(entry).__name__}", "wrong_type")
    for name, kind in _FIELDS.items():
        value = entry.get(name)
        if value is None and name in ("is_long_range", "eval_dataset"):
            continue
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (is_number if kind is int else isinstance(value, kind)):
            wanted = {int: "a number of at least 1", bool: "true or false", str: "the path of a file"}[kind]
            raise RecordError(place, f"field '{name}' must be {wanted}, got {value!r}", "wrong_type", name)
    held_out = entry.get("eval_dataset")
    return CurriculumEntry(
        steps=entry["steps"],
        is_long_range=bool(entry.get("is_long_range")),
        dataset=replace(like, path=str(folder / entry["dataset"])),
        eval_dataset=replace(like, path=str(folder / held_out)) if held_out else None,
    )
