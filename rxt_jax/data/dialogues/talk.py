"""What is said around the facts: frames, openers, small talk, acknowledgements, read from `phrases/talk.toml`."""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

__all__ = ["HELD_OUT_EVERY_PHRASE", "side_of_phrases", "talk"]

T = TypeVar("T")

HELD_OUT_EVERY_PHRASE = 4
"""One of so many phrases of a list is kept for evaluation."""


@cache
def talk() -> dict[str, Any]:
    """Read the file."""
    return tomllib.loads((files("rxt_jax.data.dialogues") / "phrases" / "talk.toml").read_text(encoding="utf-8"))


def side_of_phrases(items: Sequence[T], held_out: bool) -> list[T]:
    """Return what the user says in training, or what only evaluation hears: every fourth of a list."""
    last = HELD_OUT_EVERY_PHRASE - 1
    return [item for place, item in enumerate(items) if (place % HELD_OUT_EVERY_PHRASE == last) == held_out]
