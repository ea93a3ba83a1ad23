"""With which memory conversations begin: fresh ones, or what others left. Source: docs/method.md §19.7."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rxt_jax.model.episode import keep_rows
from rxt_jax.types import Array, Key

__all__ = ["MemoryResets", "draw_memories"]


@dataclass(frozen=True, kw_only=True)
class MemoryResets:
    """With which memory conversations begin: a fresh one, or what another conversation left in the update before."""

    start: int = 0
    """The update from which on memory is not always fresh."""
    ratio: float = 1.0
    """The chance of a fresh one from there on."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0 or self.start < 0:
            raise ValueError(f"resets need a ratio in [0, 1] and a start of at least 0, got {self}.")


def draw_memories(
    resets: MemoryResets, model: Any, rows: int, left: Array | None, update: Array, key: Key
) -> tuple[Array, Array]:
    """Draw the memories `[L B S D]` of an update and say which are fresh, `[B]`; without `left` all of them are."""
    memory = model.initial_memory(rows, jax.random.fold_in(key, 0))
    fresh = jnp.ones(rows, bool)
    if left is None:
        return memory, fresh
    drawn = jax.random.bernoulli(jax.random.fold_in(key, 1), resets.ratio, (rows,))
    # There is no conversation before that of update 0.
    fresh = drawn | (update < max(resets.start, 1))
    return keep_rows(fresh, memory, left), fresh
