"""Parameter groups: which part of the model a parameter belongs to, by the pattern of its path."""

import re
from collections.abc import Iterable

from flax import nnx

__all__ = [
    "GROUP_PATTERNS",
    "assign_groups",
    "matrix_axes",
]

GROUP_PATTERNS: tuple[tuple[str, str], ...] = (
    ("critic", r"^critic(/|$)"),
    ("reward_model", r"^reward_model/reader(/|$)"),
    ("reward_memory", r"^reward_model(/|$)"),
    ("learned_memory", r"^learned_memory(/|$)"),
    ("masked_language_head", r"^masked_language_head(/|$)"),
    ("memory_attention", r"^memory_attention(/|$)"),
    ("embedding", r"^embedding(/|$)"),
    ("cross_attention", r"^decoder/.*cross_attention"),
    ("encoder", r"^encoder(/|$)"),
    ("decoder", r"^decoder(/|$)"),
)
"""Group and pattern; the first pattern that matches wins, so the special ones come first."""


def assign_groups(paths: Iterable[str], patterns: tuple[tuple[str, str], ...] = GROUP_PATTERNS) -> dict[str, str]:
    """Map every path to its group; a path without a group is an error that lists all such paths."""
    groups: dict[str, str] = {}
    orphans = []
    for path in paths:
        group = next((name for name, pattern in patterns if re.search(pattern, path)), None)
        if group is None:
            orphans.append(path)
        else:
            groups[path] = group
    if orphans:
        raise ValueError(
            f"Every parameter must belong to a group, but no pattern covers {', '.join(orphans)}. "
            f"Add a pattern to the optimizer's `groups`; known groups: "
            f"{', '.join(dict(patterns))}."
        )
    return groups


def matrix_axes(variable: nnx.Variable) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Find the input and output dimensions of a linear map's kernel; None for everything else.

    Judged by the names of the axes, because stacked layers give a norm's scale two dimensions and a
    kernel three or four. Embeddings, output heads, memory slots, positions, short convolutions, norms, biases and
    gates are not matrices here. Layers and experts are left out: each of theirs is a matrix of its own.
    """
    axes = variable.get_metadata().get("axes")
    if not axes:
        return None
    stacked = len(variable.shape) - len(axes)
    inner = [(i + stacked, name) for i, name in enumerate(axes) if name not in ("experts", "shared_experts")]
    names = [name for _, name in inner]
    if len(inner) < 2 or {"vocab", "slots", "positions", "neighbours"} & set(names):
        return None
    dimensions = [i for i, _ in inner]
    if names[0] == "embed":
        return (dimensions[0],), tuple(dimensions[1:])
    if names[-1] == "embed":
        return tuple(dimensions[:-1]), (dimensions[-1],)
    return None
