"""Normalisation over the last axis, with float32 statistics whatever the activations are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["LAYER_NORM_EPSILON", "RMS_NORM_EPSILON", "layer_norm", "rms_norm"]

RMS_NORM_EPSILON = 1.1920929e-07  # float32 machine epsilon, what the published implementation falls back to
LAYER_NORM_EPSILON = 1e-5


def rms_norm(
    x: Float[Array, "... D"], scale: Float[Array, "D"], epsilon: float = RMS_NORM_EPSILON
) -> Float[Array, "... D"]:
    """Compute x / sqrt(mean(x²) + ε) · scale. Source: docs/method.md, eq. 6."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
    return (wide * inverse * scale.astype(jnp.float32)).astype(x.dtype)


def layer_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, "D"],
    bias: Float[Array, "D"],
    epsilon: float = LAYER_NORM_EPSILON,
) -> Float[Array, "... D"]:
    """Compute (x − mean) / sqrt(var + ε) · scale + bias with the biased variance.

    Source: docs/method.md, eq. 7.
    """
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    return (centred * inverse * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)
