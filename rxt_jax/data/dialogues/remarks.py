"""Remarks: what people type beside facts, read from `phrases/remarks.toml`.

"My dog makes me laugh every day", "is Ana a good name?", "book me a table for 7 pm": a memory has to let them pass.
Their words are drawn like those of facts, so that they cannot be learnt by heart.
"""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from rxt_jax.data.dialogues.subjects import SUBJECT_KINDS
from rxt_jax.data.dialogues.templates import SUBJECT_PLACES
from rxt_jax.data.dialogues.values import VALUE_TYPES

__all__ = ["Remark", "drawn_values", "read_remarks", "remarks"]

_PLACE = re.compile(r"\{(a )?([^}]*)\}")


class Remark(NamedTuple):
    """Sentences with one answer; `subjects`: kinds of subject that they are about, none where they name nobody."""

    answer: str
    subjects: tuple[str, ...]
    say: tuple[str, ...]


def drawn_values(template: str) -> list[str]:
    """List the value types that a sentence names, each once: {city}, {a thing}."""
    return list(dict.fromkeys(name for _, name in _PLACE.findall(template) if name not in SUBJECT_PLACES | {"v"}))


def _check(where: str, template: str, has_subject: bool) -> None:
    for _, name in _PLACE.findall(template):
        if name not in SUBJECT_PLACES | {"v"} | set(VALUE_TYPES):
            raise ValueError(f"{where}: unknown place {{{name}}} in {template!r}")
        if name in SUBJECT_PLACES and not has_subject:
            raise ValueError(f"{where}: {template!r} speaks of somebody: the group needs `subjects`")
    names = [name for _, name in _PLACE.findall(template) if name not in SUBJECT_PLACES]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: {template!r} names a value twice")


def read_remarks(text: str, file: str) -> Iterator[Remark]:
    """Read the groups of a TOML file; `phrases/README.md` says what they hold. ValueError names group and sentence."""
    for number, table in enumerate(tomllib.loads(text)["remark"], 1):
        where = f"{file}, group {number}"
        if wrong := {"answer", "subjects", "say"} ^ (set(table) | {"subjects"}):
            raise ValueError(f"{where}: needs answer, say and perhaps subjects; see {sorted(wrong)}")
        subjects: list[Any] = table.get("subjects", [])
        if unknown := set(subjects) - SUBJECT_KINDS:
            raise ValueError(f"{where}: no subject {min(unknown)}; there are {', '.join(sorted(SUBJECT_KINDS))}")
        if len(table["say"]) < 4 or len(set(table["say"])) < len(table["say"]):
            raise ValueError(f"{where}: needs at least 4 different sentences, got {table['say']}")
        for template in table["say"]:
            _check(where, template, bool(subjects))
        yield Remark(table["answer"], tuple(subjects), tuple(table["say"]))


@cache
def remarks() -> tuple[Remark, ...]:
    """Read the file."""
    path = files("rxt_jax.data.dialogues") / "phrases" / "remarks.toml"
    return tuple(read_remarks(path.read_text(encoding="utf-8"), "phrases/remarks.toml"))
