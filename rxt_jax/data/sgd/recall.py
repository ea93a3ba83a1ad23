"""Which values of an output were said before and are not in its own input: only memory can give them.

The rule was found on the prepared episodes (docs/data.md): it gives their annotations exactly.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["with_recall"]

_SHORTEST = 3
"""Shorter values, mostly counts, occur in a text by chance."""
_TRUTH_VALUES = ("True", "False")
_TEXTS = ("query", "tool_use", "answer", "tool_call")


def with_recall(
    interactions: Iterable[Mapping[str, Any]], values: Iterable[Sequence[tuple[str, str]]]
) -> list[dict[str, Any]]:
    """Add `recall` to the interactions whose output holds values from memory.

    `values` are the (slot, value) pairs of every output. One is recalled where an earlier interaction holds it as whole
    words, whatever the case, and its own query or tool result does not; `distance` leads to the latest that does.
    """
    annotated, said = [], []
    for interaction, pairs in zip(interactions, values, strict=True):
        own = (interaction.get("query") or interaction.get("tool_use") or "").lower()
        recall = []
        for slot, value in dict.fromkeys(pairs):
            if len(value) < _SHORTEST or value in _TRUTH_VALUES or _holds(own, value.lower()):
                continue
            distances = (distance for distance, text in enumerate(reversed(said), 1) if _holds(text, value.lower()))
            distance = next(distances, None)
            if distance is not None:
                recall.append({"slot": slot, "value": value, "distance": distance})
        annotated.append({**interaction, "recall": recall} if recall else dict(interaction))
        said.append("\n".join(interaction[name] for name in _TEXTS if interaction.get(name)).lower())
    return annotated


def _holds(text: str, value: str) -> bool:
    return value in text and _whole_words(value).search(text) is not None


@lru_cache(maxsize=1 << 16)
def _whole_words(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")
