"""Residual gates: how much of what was written replaces what was remembered.

    sum         old + new
    replace     new
    sigmoid     G·new + (1 − G)·old          tanh     (1 + G)·new + (1 − G)·old

where G comes from a constant per slot, from the slots' mean, from a map over slots, or from the contents.
All of it is float32: a gate that is nearly closed must not round what it leaves alone.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.nn.linear import Linear
from rxt_jax.nn.parameters import constant, make_parameter, uniform_fan_in
from rxt_jax.ops.norms import rms_norm

__all__ = ["ResidualGate", "ResidualGateConfig", "ResidualGateKind"]

ResidualGateKind = Literal["sum", "replace", "static", "elementwise", "linear", "learned_slot", "learned_channel"]


@dataclass(frozen=True, kw_only=True)
class ResidualGateConfig:
    """Which gate, and where it starts. Source: docs/method.md §7.4."""

    kind: ResidualGateKind = "sum"
    """`sum` and `replace` have no gate; `static`, `elementwise` and `linear` are published (docs/method.md, eq. 31);
    `learned_slot` and `learned_channel` see the contents themselves, one gate per slot or per channel (eq. 33)."""
    activation: Literal["tanh", "sigmoid"] = "tanh"
    """`tanh` (published) lets memory grow (eq. 29), `sigmoid` keeps it between old and new (eq. 30)."""
    per_slot: bool = True
    """One gate per slot, or one for all slots of the layer; concerns the published kinds."""
    initial: float = 3.0
    """Start before the activation: the weight of `static` and `elementwise`, the bias of the learned kinds; below 0 a
    learned sigmoid gate is mostly closed at first. `linear` does not use it."""
    status: Literal["mean", "linear"] = "mean"
    """The number that stands for a slot's content in `elementwise` and `linear` (eq. 32)."""

    def __post_init__(self) -> None:
        if self.status == "linear" and not self.per_slot and self.kind in ("static", "elementwise"):
            raise ValueError(f"status='linear' needs per_slot=True for a {self.kind} gate. Use status='mean'.")


class ResidualGate(nnx.Module):
    """Join old and new slots `[B S D]` in float32, whatever they come in. Source: docs/method.md, eq. 28, 29, 30."""

    def __init__(self, num_slots: int, embed_dim: int, config: ResidualGateConfig, *, rngs: nnx.Rngs):
        self.config = config
        kind = config.kind
        self.has_status = config.status == "linear" and kind in ("elementwise", "linear")
        if self.has_status:
            self.status = Linear({"embed": embed_dim}, {"one": 1}, rngs=rngs)
        if kind in ("static", "elementwise"):
            start = constant(config.initial)
            if config.per_slot:
                self.weight = make_parameter(rngs, start, (num_slots, 1), ("slots", "one"))
            else:
                self.weight = make_parameter(rngs, start, (1,), ("one",))
        elif kind == "linear":
            self.mixer = Linear(
                {"slots": num_slots},
                {"slots_out": num_slots if config.per_slot else 1},
                rngs=rngs,
            )
        elif kind in ("learned_slot", "learned_channel"):
            width = embed_dim if kind == "learned_channel" else 1
            # Half the usual spread: the bias alone decides how open the gate is at first.
            start = uniform_fan_in(4 * embed_dim)
            both = {"bias": False, "initializer": start, "rngs": rngs}
            self.from_old = Linear({"embed": embed_dim}, {"channels": width}, **both)
            self.from_new = Linear({"embed": embed_dim}, {"channels": width}, **both)
            self.bias = make_parameter(rngs, constant(config.initial), (width,), ("channels",))

    def __call__(self, old: Float[Array, "B S D"], new: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        old, new = old.astype(jnp.float32), new.astype(jnp.float32)
        gate = self.opening(old, new)
        if gate is None:
            return old + new if self.config.kind == "sum" else new
        if self.config.activation == "tanh":
            return (1.0 + gate) * new + (1.0 - gate) * old
        return gate * new + (1.0 - gate) * old

    @property
    def has_opening(self) -> bool:
        """Whether it decides how much is replaced: `sum` and `replace` have nothing to decide."""
        return self.config.kind not in ("sum", "replace")

    def opening(self, old: Float[Array, "B S D"], new: Float[Array, "B S D"]) -> Float[Array, "..."] | None:
        """Return G, which spreads over `[B S D]`; None for the kinds without a gate."""
        if not self.has_opening:
            return None
        score = self._score(old.astype(jnp.float32), new.astype(jnp.float32))
        return jnp.tanh(score) if self.config.activation == "tanh" else jax.nn.sigmoid(score)

    def _score(self, old: Array, new: Array) -> Array:
        config = self.config
        if config.kind == "static":
            return self.weight[...]
        if config.kind in ("learned_slot", "learned_channel"):
            one = jnp.ones(old.shape[-1], jnp.float32)
            mixed = self.from_old(rms_norm(old, one)) + self.from_new(rms_norm(new, one))
            return mixed + self.bias[...]
        joined = old + new
        status = self.status(joined)[..., 0] if self.has_status else jnp.mean(joined, axis=-1)
        if config.kind == "linear":
            return self.mixer(status)[..., None]
        if not config.per_slot:
            status = jnp.mean(status, axis=-1, keepdims=True)
        return self.weight[...] * status[..., None]
