"""RMSNorm and LayerNorm as modules."""

from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.nn.parameters import constant, make_parameter
from rxt_jax.ops.norms import LAYER_NORM_EPSILON, RMS_NORM_EPSILON, layer_norm, rms_norm

__all__ = ["LayerNorm", "NormKind", "RMSNorm", "make_norm"]

NormKind = Literal["rms", "layer"]


class RMSNorm(nnx.Module):
    """x / rms(x) · scale. Source: docs/method.md, eq. 6."""

    def __init__(self, dim: int, *, axis: str = "norm", epsilon: float = RMS_NORM_EPSILON, rngs: nnx.Rngs):
        self.scale = make_parameter(rngs, constant(1.0), (dim,), (axis,))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return rms_norm(x, self.scale[...], self.epsilon)


class LayerNorm(nnx.Module):
    """(x − mean) / std · scale + bias. Source: docs/method.md, eq. 7."""

    def __init__(self, dim: int, *, epsilon: float = LAYER_NORM_EPSILON, rngs: nnx.Rngs):
        self.scale = make_parameter(rngs, constant(1.0), (dim,), ("norm",))
        self.bias = make_parameter(rngs, constant(0.0), (dim,), ("norm",))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


def make_norm(kind: NormKind, dim: int, *, rngs: nnx.Rngs) -> RMSNorm | LayerNorm:
    """Build the norm of that kind."""
    if kind == "rms":
        return RMSNorm(dim, rngs=rngs)
    if kind == "layer":
        return LayerNorm(dim, rngs=rngs)
    raise ValueError(f"norm must be 'rms' or 'layer', got {kind!r}.")
