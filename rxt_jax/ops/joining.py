"""Putting right-padded parts of rows behind one another: query and answer, or a state for the critic."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool

from rxt_jax.ops.columns import put_columns

__all__ = ["join_masks", "join_parts"]


def join_parts(
    parts: Sequence[Array], masks: Sequence[Bool[Array, "B _"]], width: int, fill: float | int | bool = 0
) -> Array:
    """Write the real places of every part behind those of the part before it, `[B width]`; `fill` is behind them.

    Parts are right-padded `[B T]`, of any width each. What does not fit is cut on the right, so that a long first
    part can leave no place for the others. Source: docs/method.md §13.2.
    """
    joined = jnp.full((len(masks[0]), width), fill, parts[0].dtype)
    start = jnp.zeros((len(masks[0]), 1), jnp.int32)
    for part, mask in zip(parts, masks, strict=True):
        # Places beyond the row are dropped, and so is padding, which is sent there.
        joined = put_columns(joined, jnp.where(mask, start + jnp.arange(part.shape[1]), width), part)
        start = start + jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32)
    return joined


def join_masks(masks: Sequence[Bool[Array, "B _"]], width: int) -> Bool[Array, "B width"]:
    """Return the mask of what `join_parts` writes."""
    return join_parts(masks, masks, width, False)
