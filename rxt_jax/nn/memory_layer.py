"""One layer of the memory attention network: slots read an interaction and are rewritten.

Source: docs/method.md §7.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rxt_jax.nn.attention import Attention, AttentionConfig
from rxt_jax.nn.copying_start import check_copying, start_copying
from rxt_jax.nn.memory_norms import MemoryNorm, MemoryNormConfig
from rxt_jax.nn.norms import RMSNorm
from rxt_jax.nn.parameters import make_parameter, normal
from rxt_jax.nn.remat import named_activation
from rxt_jax.nn.residual_gates import ResidualGate, ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.nn.slot_groups import put_back, spread, take_oldest
from rxt_jax.ops.attention import AttentionMask
from rxt_jax.types import Key

__all__ = ["EncodedLayer", "MemoryLayer", "MemoryLayerConfig", "MemoryVariant", "WatchedWrite"]

MemoryVariant = Literal["simple", "self", "interlayer", "self_interlayer", "grouped_self_interlayer"]


@dataclass(frozen=True, kw_only=True)
class MemoryLayerConfig:
    """What a memory layer does before and while it reads the interaction.

    simple           nothing before
    self             slots of the layer attend to each other
    interlayer       slots attend to the mean over layers
    self_interlayer  slots attend to a mixture of themselves and that mean; grouped: mean of a group
    """

    variant: MemoryVariant = "simple"
    """docs/method.md, eq. 34, 35, 37 and 38."""
    attention: AttentionConfig
    """From the slots to the interaction (eq. 22)."""
    inner_attention: AttentionConfig | None = None
    """Among memory; None for `simple` alone."""
    norm: MemoryNormConfig = field(default_factory=MemoryNormConfig)
    """Of slots, wherever they are normalised."""
    gate: ResidualGateConfig = field(default_factory=ResidualGateConfig)
    """Joins what was read to the slots (eq. 23)."""
    inner_gate: ResidualGateConfig = field(default_factory=ResidualGateConfig)
    """Joins what the inner attention gives to the slots; start it nearly closed (docs/method.md §7.6)."""
    mixture_gate: ResidualGateConfig = field(default_factory=ResidualGateConfig)
    """Joins slots and mean over layers, for the self-interlayer variants."""
    rotary: RotaryConfig | None = field(default_factory=RotaryConfig)
    """Positions of the interaction's tokens as keys; None = no positions."""
    slot_identity: float = 0.0
    """Standard deviation at the start of a learned vector per slot in the write query; 0 = none (eq. 21)."""
    slot_groups: int = 1
    """Groups of slots that take turns: an interaction is written into the group that was written longest ago, the
    others stay as they are, and `slot_identity` and a gate per slot are those of a place in its group. 1 (published):
    every interaction is written into all slots (docs/method.md §7.8)."""
    start: Literal["random", "copy"] = "random"
    """How the attention to the interaction starts: `copy` puts states of single tokens into slots from the first update
    on, `random` (published) their mean (docs/method.md §7.7)."""
    in_order: bool = False
    """Tokens have a learned vector per position in the write key, as slots have in the query, and slots begin by
    reading the tokens in order. Needs start='copy', rotary=None and a `slot_identity` that outweighs contents, such as
    1.5 (docs/method.md §7.9)."""

    def __post_init__(self) -> None:
        if (self.inner_attention is None) != (self.variant == "simple"):
            raise ValueError(
                f"inner_attention must be {'None' if self.variant == 'simple' else 'set'} for the "
                f"{self.variant} variant, got {self.inner_attention}."
            )
        if self.gate.kind == "replace" and self.variant != "simple":
            raise ValueError(f"a 'replace' gate is for the simple variant, got {self.variant}. Use 'sum'.")
        if self.slot_groups < 1:
            raise ValueError(f"slot_groups must be at least 1, got {self.slot_groups}.")
        if self.slot_groups > 1 and self.variant != "simple":
            raise ValueError(f"slot_groups = {self.slot_groups} needs the simple variant, got {self.variant!r}.")
        if self.in_order and (self.start, self.rotary) != ("copy", None):
            raise ValueError(
                f"in_order needs start='copy' and rotary=None, because tokens have learned positions instead; got "
                f"{self.start!r} and {self.rotary}."
            )
        if self.in_order and self.slot_identity <= 0.0:
            raise ValueError("in_order needs slot_identity above 0: places begin with the vectors of the slots.")
        replaces = self.gate.kind == "replace" or (self.gate.kind != "sum" and self.gate.activation == "sigmoid")
        if self.slot_groups > 1 and not replaces:
            raise ValueError(
                f"slot_groups = {self.slot_groups} needs a gate that replaces a share in [0, 1] of a slot: the kind "
                f"'replace' or the activation 'sigmoid', got {self.gate.kind!r} and {self.gate.activation!r}."
            )

    @property
    def mixes_itself_in(self) -> bool:
        """Whether the inner attention reads a mixture of the slots and the mean over layers."""
        return self.variant in ("self_interlayer", "grouped_self_interlayer")


class EncodedLayer(NamedTuple):
    """An encoder layer's states of one interaction, and which of them are real."""

    states: Float[Array, "B T D"]
    positions: Int[Array, "B1 T"]
    mask: AttentionMask | None


class WatchedWrite(NamedTuple):
    """How slots were written: the mean opening of each slot's gate, None where there is no gate, and the weights with
    which it read the tokens, the mean over heads. Of one layer, or with a leading axis L of all."""

    gate: Float[Array, "*L B S"] | None
    weights: Float[Array, "*L B S T"]


class MemoryLayer(nnx.Module):
    """m → inner attention → attention to the interaction → residual gate.

    Slots are carried from write to write and stay in their own dtype; attention computes in that of the encoded
    states, and gates join both in float32. `num_slots` must be a multiple of `config.slot_groups`. `max_length`: tokens
    of the longest interaction, for layers that read in order.
    """

    def __init__(
        self,
        num_slots: int,
        embed_dim: int,
        config: MemoryLayerConfig,
        *,
        max_length: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        num_slots //= config.slot_groups  # those that one interaction is written into
        if config.inner_attention is not None:
            self.inner_norm = MemoryNorm(num_slots, embed_dim, config.norm, rngs=rngs)
            self.inner_attention = Attention(embed_dim, config.inner_attention, rngs=rngs)
            self.inner_gate = ResidualGate(num_slots, embed_dim, config.inner_gate, rngs=rngs)
        if config.mixes_itself_in:
            self.mixture_gate = ResidualGate(num_slots, embed_dim, config.mixture_gate, rngs=rngs)
        self.norm = MemoryNorm(num_slots, embed_dim, config.norm, rngs=rngs)
        self.input_norm = RMSNorm(embed_dim, rngs=rngs)
        self.attention = Attention(embed_dim, config.attention, config.rotary, rngs=rngs)
        if config.start == "copy":
            check_copying(embed_dim, config.attention)
            start_copying(self.attention, rngs, alike=config.in_order)
        self.gate = ResidualGate(num_slots, embed_dim, config.gate, rngs=rngs)
        if config.slot_identity > 0.0:
            self.slot_identity = make_parameter(
                rngs, normal(config.slot_identity), (num_slots, embed_dim), ("slots", "embed")
            )
        if config.in_order:
            if max_length is None:
                raise ValueError("in_order needs max_length, the tokens of the longest interaction.")
            # Token t begins with the vector of slot t, and behind the last slot with those of the first ones again.
            places = jnp.resize(self.slot_identity[...], (max_length, embed_dim))
            self.token_identity = make_parameter(rngs, lambda *_: places, places.shape, ("positions", "embed"))

    def __call__(
        self,
        slots: Float[Array, "B S D"],
        encoded: EncodedLayer,
        mean: Float[Array, "B S D"] | None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the new slots, float32; `mean` is the normalised mean over layers, where the variant reads it."""
        keys = (None, None) if key is None else jax.random.split(key)
        slots = self._attend_inwards(slots, mean, encoded.states.dtype, keys[0])
        if self.config.slot_groups == 1:
            return named_activation(self.gate(slots, self._read(slots, encoded, keys[1])), "slots")
        slots = slots.astype(jnp.float32)
        old, chosen = take_oldest(slots, self.config.slot_groups)
        read = self._read(old, encoded, keys[1])
        strength = jnp.mean(self._opening(old, read), axis=(1, 2))
        return named_activation(put_back(slots, chosen, self.gate(old, read), strength), "slots")

    def watch(
        self, slots: Float[Array, "B S D"], encoded: EncodedLayer, mean: Float[Array, "B S D"] | None
    ) -> WatchedWrite:
        """Say how a call with the same arguments writes the slots."""
        slots = self._attend_inwards(slots, mean, encoded.states.dtype, None)
        groups, chosen = self.config.slot_groups, None
        if groups > 1:
            slots, chosen = take_oldest(slots.astype(jnp.float32), groups)
        query, (token_keys, _) = self._ask(slots, encoded)
        weights = jnp.mean(self.attention.weights(query, token_keys, encoded.mask), axis=1)
        gate = None
        if chosen is not None or self.gate.has_opening:
            gate = jnp.mean(self._opening(slots, self._read(slots, encoded, None)), axis=-1)
        if chosen is not None:
            assert gate is not None
            gate, weights = spread(chosen, gate), spread(chosen, weights)
        return WatchedWrite(gate, weights)

    def _read(self, slots: Array, encoded: EncodedLayer, key: Key | None) -> Array:
        """Let slots read the interaction."""
        query, (token_keys, values) = self._ask(slots, encoded)
        return self.attention(query, token_keys, values, encoded.mask, key=key)

    def _opening(self, slots: Array, read: Array) -> Array:
        """Return the share of every channel that is replaced; 1 where the gate replaces all."""
        gate = self.gate.opening(slots, read)
        return jnp.broadcast_to(1.0 if gate is None else gate, slots.shape)

    def _ask(self, slots: Array, encoded: EncodedLayer) -> tuple[Array, tuple[Array, Array]]:
        """Make the queries of the slots, and keys and values of the tokens."""
        query = self.norm(slots)
        if self.config.slot_identity > 0.0:
            query = query + self.slot_identity[...]
        states = self.input_norm(encoded.states)
        named = states
        if self.config.in_order:
            length, longest = states.shape[1], self.token_identity.shape[0]
            if length > longest:
                raise ValueError(f"an interaction may have {longest} tokens (max_length), got {length}.")
            named = states + self.token_identity[:length].astype(states.dtype)
        projected = self.attention.project(states, encoded.positions, keys_of=named)
        return query.astype(encoded.states.dtype), projected

    def _attend_inwards(self, slots: Array, mean: Array | None, compute: Any, key: Key | None) -> Array:
        if self.config.inner_attention is None:
            return slots
        normed = self.inner_norm(slots)
        source = normed if mean is None else mean
        if self.config.mixes_itself_in:
            source = self.mixture_gate(normed, source)
        normed, source = normed.astype(compute), source.astype(compute)
        read = self.inner_attention(normed, *self.inner_attention.project(source), key=key)
        return self.inner_gate(slots, read)
