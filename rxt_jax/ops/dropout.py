"""Dropout as a function of its key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rxt_jax.types import Key

__all__ = ["dropout"]


def dropout(x: Float[Array, "..."], rate: float, key: Key | None) -> Float[Array, "..."]:
    """Zero elements with probability `rate` and rescale the others; identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
