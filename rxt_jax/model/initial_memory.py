"""Memory before the first interaction."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.model.config import InitialMemory
from rxt_jax.types import Key

__all__ = ["LearnedMemory", "draw_memory"]


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
