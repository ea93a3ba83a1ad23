"""Memory before the first interaction."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.model.config import InitialMemory
from rxt_jax.types import Key

__all__ = ["LearnedMemory", "beginning_memory", "draw_memory"]

_KEY = 0x4D454D  # far from the numbers of interactions and turns, with which it shares a key


class LearnedMemory(nnx.Module):
    """One vector per layer and slot, the same at the start of every conversation.

    Slots that start different can specialise; in the pilots this decided whether memory learns at all.
    """

    def __init__(self, num_layers: int, num_slots: int, embed_dim: int, std: float, *, rngs: nnx.Rngs):
        shape = (num_layers, num_slots, embed_dim)
        self.slots = nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=("slots", "embed"))

    def __call__(self, batch: int) -> Float[Array, "L B S D"]:
        slots = self.slots[...][:, None]
        return jnp.broadcast_to(slots, (slots.shape[0], batch, *slots.shape[2:]))


def draw_memory(
    kind: InitialMemory, shape: tuple[int, int, int, int], key: Key, *, scale: float = 0.01
) -> Float[Array, "L B S D"]:
    """Draw a published initial memory; `scale` is the spread of `normal` and `uniform`. Source: docs/method.md §7.1."""
    if kind == "standard":
        return jax.random.normal(key, shape)
    if kind == "normal":
        return scale * jax.random.normal(key, shape)
    if kind == "uniform":
        return scale * jax.random.uniform(key, shape)
    if kind == "zeros":
        return jnp.zeros(shape)
    if kind == "ones":
        return jnp.ones(shape)
    raise ValueError(f"initial_memory must be learned, standard, normal, uniform, zeros or ones, got {kind!r}.")


def beginning_memory(model: Any, batch: int, key: Key | None) -> Float[Array, "L B S D"]:
    """Return the memory that an episode or a conversation of this key begins with; without a key always the same one.

    Stages, evaluation and chats begin alike, also where memory is drawn.
    """
    key = jax.random.key(0) if key is None else key
    return model.initial_memory(batch, jax.random.fold_in(key, _KEY))
