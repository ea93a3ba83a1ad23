"""Norms of memory slots: RMSNorm by default, and the published kinds with gates and statistics.

The published RMS kinds divide by √rms, a fourth root of the mean square: not a slip of this file but of
the models that were trained with it (docs/method.md, eq. 25).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.nn.parameters import constant, make_parameter, normal
from rxt_jax.ops.norms import layer_norm, rms_norm

__all__ = ["MemoryNorm", "MemoryNormConfig", "MemoryNormKind"]

MemoryNormKind = Literal["classic_rms", "layer", "rms", "adaptive", "positional"]

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class MemoryNormConfig:
    """How slots are normalised; all but `kind` concern the published kinds. Source: docs/method.md §7.3."""

    kind: MemoryNormKind = "classic_rms"
    """`classic_rms` is plain RMSNorm; the others are published as they are (eq. 24 to 26)."""
    gated: bool = True
    """Mix norm and input (docs/method.md, eq. 27)."""
    gate_init: float = -2.0
    """Start of the gate before the sigmoid: −2 takes 12 % of the norm."""
    scaled: bool = True
    """Whether `positional` has a scale; the others always have."""
    per_channel_scale: bool = False
    """Scale of `positional` per channel instead of per slot."""
    decay: float = 0.9
    """Share of the running statistic of `adaptive` and `positional` that stays, in [0, 1)."""


class MemoryNorm(nnx.Module):
    """Normalise the slots `[B S D]` of one memory layer."""

    def __init__(self, num_slots: int, embed_dim: int, config: MemoryNormConfig, *, rngs: nnx.Rngs):
        self.config = config
        kind = config.kind
        by_slot = kind == "positional"
        one, channels = constant(1.0), ((embed_dim,), ("norm",))
        slots = ((num_slots, 1), ("slots", "one"))
        self.has_scale = config.scaled or not by_slot
        self.has_gate = kind != "classic_rms" and config.gated
        if by_slot and config.scaled:
            placed = channels if config.per_channel_scale else slots
            self.scale = make_parameter(rngs, normal(0.1, 1.0), *placed)
        elif not by_slot:
            self.scale = make_parameter(rngs, one, *channels)
        if kind == "layer":
            self.norm_scale = make_parameter(rngs, one, *channels)
            self.bias = make_parameter(rngs, constant(0.0), *channels)
        if self.has_gate:
            placed = slots if by_slot else ((1,), ("one",))
            self.gate = make_parameter(rngs, constant(config.gate_init), *placed)
        if kind in ("adaptive", "positional"):
            placed = slots if by_slot else ((1,), ("one",))
            self.running_rms = make_parameter(rngs, one, *placed)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Normalise as at inference: `positional` by its statistic, `adaptive` by each slot's own."""
        kind = self.config.kind
        if kind == "classic_rms":
            return rms_norm(x, self.scale[...])
        if kind == "layer":
            return self._mix(layer_norm(x, self.norm_scale[...], self.bias[...]) * self.scale[...], x)
        if kind == "positional":
            # A statistic, not a weight: no loss moves it.
            root = jax.lax.stop_gradient(self.running_rms[...])
        else:
            root = jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True))
        return self._divide(x, root)

    def with_statistics(
        self, x: Float[Array, "B S D"], running_rms: Float[Array, "..."]
    ) -> tuple[Float[Array, "B S D"], Float[Array, "..."]]:
        """Normalise as the published implementation does in training: move the statistic, divide by it, return both."""
        x_fixed = jax.lax.stop_gradient(x) if self.config.kind == "positional" else x
        if self.config.kind == "positional":
            current = jnp.mean(jnp.sqrt(jnp.mean(x_fixed**2, axis=-1, keepdims=True)), axis=0)
        elif self.config.kind == "adaptive":
            current = jnp.sqrt(jnp.mean(x_fixed**2))[None]
        else:
            raise ValueError(f"only adaptive and positional norms have statistics, not {self.config.kind}.")
        decay = self.config.decay
        running_rms = decay * running_rms + (1.0 - decay) * current
        return self._divide(x, running_rms), running_rms

    def _divide(self, x: Array, root: Array) -> Array:
        normed = x / jnp.sqrt(root + _EPSILON)
        return self._mix(normed * self.scale[...] if self.has_scale else normed, x)

    def _mix(self, normed: Array, x: Array) -> Array:
        if not self.has_gate:
            return normed.astype(x.dtype)
        share = jax.nn.sigmoid(self.gate[...])
        return (share * normed + (1.0 - share) * x).astype(x.dtype)
