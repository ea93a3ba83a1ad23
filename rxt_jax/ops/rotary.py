"""Rotary positional embedding (Su et al., 2021): positions as rotations of channel pairs."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["apply_rotary", "rotary_angles"]


def rotary_angles(positions: Int[Array, "*B T"], head_dim: int, base: float = 10000.0) -> Float[Array, "*B T half"]:
    """Compute the angle of every channel pair, `position · base^(−2j / head_dim)`, in float32.

    Source: docs/method.md, eq. 10.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}.")
    frequencies = 1.0 / base ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    return positions[..., None].astype(jnp.float32) * frequencies


def apply_rotary(
    x: Float[Array, "B T N H"],
    angles: Float[Array, "*B1 T half"],
    *,
    legacy_layout: bool = False,
) -> Float[Array, "B T N H"]:
    """Rotate the channel pairs (2j, 2j + 1) of every head.

    `legacy_layout` writes the results as two halves, as checkpoints from before December 2025 expect.
    Angles in bfloat16 reproduce the published rounding. Source: docs/method.md, eq. 11 and 12, §4.4.
    """
    cosine = jnp.cos(angles).astype(jnp.float32)[..., None, :]
    sine = jnp.sin(angles).astype(jnp.float32)[..., None, :]
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    rotated = (even * cosine - odd * sine, even * sine + odd * cosine)
    if legacy_layout:
        return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
    return jnp.stack(rotated, axis=-1).reshape(x.shape).astype(x.dtype)
