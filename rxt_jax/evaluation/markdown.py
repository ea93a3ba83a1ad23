"""A measurement as a Markdown table, for README files and model cards."""

from collections.abc import Mapping
from typing import Any

__all__ = ["markdown_table"]

_COLUMNS = ("recall", "two_of_a_type", "wrong_rate", "absent_rate", "made_up_rate")
_NAMES = ("all", "two of a type", "wrong", "absent", "made up")


def markdown_table(measured: Mapping[str, Any]) -> str:
    """Write a report's summary (split → results): recall by distance and what else the answers say, in per cent.

    `wrong`: asserts something else; `absent`: says that it was not told; `made up`: asserts something where nothing was
    said.
    """
    conditions = [one for result in measured.values() for one in result["conditions"].values()]
    buckets = [
        name
        for name in (conditions[0]["recall_by_bucket"] if conditions else ())
        if any(one["recall_by_bucket"][name] is not None for one in conditions)
    ]
    head = ["split", "memory", *buckets, *_NAMES, "perplexity"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for split, result in measured.items():
        for condition, one in result["conditions"].items():
            shares = [one["recall_by_bucket"][name] for name in buckets] + [one.get(name) for name in _COLUMNS]
            cells = ["" if share is None else f"{100 * share:.0f}" for share in shares]
            cells = [split, condition, *cells, f"{one['answer_perplexity']:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
