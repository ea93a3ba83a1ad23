"""Slots in groups that take turns: an interaction is written into the group that was written longest ago.

The last channel of a slot holds the age of its group, so that memory stays the only state of a conversation. Source:
docs/method.md §7.8.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["begin_ages", "put_back", "spread", "take_oldest"]


def begin_ages(memory: Float[Array, "*batch S D"], groups: int) -> Float[Array, "*batch S D"]:
    """Set the ages of a memory in which nothing was written: its groups will be written in their order."""
    slots = memory.shape[-2]
    group = jnp.arange(slots) // (slots // groups)
    return memory.at[..., -1].set((1.0 - group / groups).astype(memory.dtype))


def take_oldest(slots: Float[Array, "B S D"], groups: int) -> tuple[Float[Array, "B K D"], Bool[Array, "B G"]]:
    """Return the K = S / G slots of the oldest group of each row, and which one that is."""
    grouped = _grouped(slots, groups)
    ages = jnp.mean(grouped[..., -1], axis=-1)
    chosen = jnp.arange(groups) == jnp.argmax(ages, axis=-1)[:, None]
    # A sum and no lookup: its derivative is a product, not a scatter.
    return jnp.sum(jnp.where(chosen[..., None, None], grouped, 0.0), axis=1), chosen


def put_back(
    slots: Float[Array, "B S D"],
    chosen: Bool[Array, "B G"],
    written: Float[Array, "B K D"],
    strength: Float[Array, "B"],
) -> Float[Array, "B S D"]:
    """Put a written group back and let all groups age.

    strength: how much was written, in [0, 1]. What was written whole is new; where little was written all groups, and
    the chosen one with them, age little, so an interaction that is not worth keeping costs no place.
    """
    groups = chosen.shape[1]
    grouped, chosen = _grouped(slots, groups), chosen[..., None, None]
    strength = strength[:, None, None, None]
    ages = grouped[..., -1:] + strength / groups
    ages = jnp.where(chosen, (1.0 - strength) * ages, ages)
    contents = jnp.where(chosen, written[:, None], grouped)
    return jnp.concatenate([contents[..., :-1], ages], axis=-1).reshape(slots.shape)


def spread(chosen: Bool[Array, "B G"], values: Float[Array, "B K *rest"]) -> Float[Array, "B S *rest"]:
    """Give values of the chosen group's slots their places among all slots; the others have 0."""
    rows, groups = chosen.shape
    at = chosen.reshape(rows, groups, *(1,) * (values.ndim - 1))
    placed = jnp.where(at, values[:, None], 0.0)
    return placed.reshape(rows, groups * values.shape[1], *values.shape[2:])


def _grouped(slots: Array, groups: int) -> Array:
    rows, count, width = slots.shape
    return slots.reshape(rows, groups, count // groups, width)
