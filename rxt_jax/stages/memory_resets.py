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
    schedule: tuple[tuple[int, float], ...] = ()
    """(update, ratio) pairs with lines between them, in place of `ratio`; before `start` memory is always fresh."""

    def __post_init__(self) -> None:
        ratios = (self.ratio, *(ratio for _, ratio in self.schedule))
        if not all(0.0 <= ratio <= 1.0 for ratio in ratios) or self.start < 0:
            raise ValueError(f"resets need ratios in [0, 1] and a start of at least 0, got {self}.")
        updates = [update for update, _ in self.schedule]
        if updates != sorted(set(updates)):
            raise ValueError(f"schedule must name each update once, in order, got updates {updates}.")

    @property
    def always_fresh(self) -> bool:
        """Whether no conversation ever goes on from another one."""
        return all(ratio == 1.0 for _, ratio in self.schedule) if self.schedule else self.ratio == 1.0

    def ratio_at(self, update: Array | int) -> Array:
        """Give the chance of a fresh memory after so many updates, from `start` on."""
        if not self.schedule:
            return jnp.float32(self.ratio)
        updates, ratios = zip(*self.schedule, strict=True)
        return jnp.interp(jnp.float32(update), jnp.array(updates, jnp.float32), jnp.array(ratios, jnp.float32))


def draw_memories(
    resets: MemoryResets, model: Any, rows: int, left: Array | None, update: Array, key: Key, *, shared: int = 1
) -> tuple[Array, Array]:
    """Draw the memories `[L B S D]` of an update and say which are fresh, `[B]`; without `left` all of them are.

    `shared`: so many neighbouring rows begin with one memory, answers to the same query from the same memory.
    """
    own = rows // shared
    memory = model.initial_memory(own, jax.random.fold_in(key, 0))
    fresh = jnp.ones(own, bool)
    if left is not None:
        drawn = jax.random.bernoulli(jax.random.fold_in(key, 1), resets.ratio_at(update), (own,))
        # There is no conversation before that of update 0.
        fresh = drawn | (update < max(resets.start, 1))
        memory = keep_rows(fresh, memory, left[:, ::shared])
    if shared == 1:
        return memory, fresh
    return jnp.repeat(memory, shared, axis=1), jnp.repeat(fresh, shared)
