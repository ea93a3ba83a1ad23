"""Runs of n tokens, as they stand in padded rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["repeated_share", "token_windows"]


def token_windows(ids: Int[Array, "*B T"], mask: Bool[Array, "*B T"], max_order: int) -> list[Int[Array, "*B T"]]:
    """Give the tokens at distance 0, 1, ... `max_order` − 1 from every place, −1 from the first masked one on.

    The first n of them are an n-gram where the last of these n is not −1.
    """
    whole, tokens = jnp.ones(mask.shape, bool), []
    for distance in range(max_order):
        behind = [(0, 0)] * (ids.ndim - 1) + [(0, min(distance, ids.shape[-1]))]
        whole &= jnp.pad(mask[..., distance:], behind)
        tokens.append(jnp.where(whole, jnp.pad(ids[..., distance:], behind), -1))
    return tokens


def repeated_share(ids: Int[Array, "B T"], mask: Bool[Array, "B T"], order: int) -> Float[Array, "B"]:
    """Give the share of n-grams that stood in the row before: 1 − distinct / all, 0 for a row without any."""
    keys = jax.lax.sort(token_windows(ids, mask, order), dimension=1, num_keys=order)
    same = jnp.stack([key == jnp.roll(key, 1, axis=1) for key in keys]).all(axis=0).at[:, 0].set(False)
    real = keys[-1] >= 0
    total, distinct = jnp.sum(real, axis=1), jnp.sum(real & ~same, axis=1)
    return 1.0 - jnp.where(total > 0, distinct / jnp.maximum(total, 1), 1.0)
