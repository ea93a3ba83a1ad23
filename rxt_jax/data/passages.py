"""Plain text out of any record, for stage 1 and for training a tokenizer."""

from collections.abc import Mapping
from typing import Any

__all__ = ["count_passages", "passage"]

_PARTS = ("internal", "tool_use", "query", "think", "answer", "tool_call")


def count_passages(record: Mapping[str, Any]) -> int:
    """Count the passages that a record can show: one of a text, else neighbouring pairs of interactions.

    Passage `number` starts at interaction `2 · number`, around the end if need be.
    """
    if "text" in record:
        return 1
    starts = max(len(record["interactions"]) - 1, 1)
    return starts if starts % 2 else starts // 2


def passage(record: Mapping[str, Any], number: int) -> str:
    """Return a text, or two neighbouring interactions of an episode joined."""
    if "text" in record:
        return record["text"]
    interactions = record["interactions"]
    start = (2 * number) % max(len(interactions) - 1, 1)
    return " ".join(
        interaction[part] for interaction in interactions[start : start + 2] for part in _PARTS if interaction.get(part)
    )
