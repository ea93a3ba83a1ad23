"""Attention layers: MHA, GQA, MQA and SQA are one module with different numbers of heads."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rxt_jax.nn.linear import Linear
from rxt_jax.nn.norms import RMSNorm
from rxt_jax.nn.parameters import normal
from rxt_jax.nn.remat import named_activation
from rxt_jax.nn.rotary import RotaryConfig, rotate
from rxt_jax.ops.activations import Activation, activation_function
from rxt_jax.ops.attention import AttentionImplementation, AttentionMask, attend, attention_weights
from rxt_jax.types import Key

__all__ = ["Attention", "AttentionConfig"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Heads and options of an attention layer; the numbers of heads decide what it is called.

    MHA: as many key/value as query heads. GQA: fewer key/value heads, MQA: one.
    SQA: fewer query heads than the model's width would hold; reverse SQA: fewer query than key heads.
    Source: docs/method.md §5.
    """

    num_query_heads: int
    """Heads of the queries, N."""
    num_kv_heads: int
    """Heads of keys and values, K. One of the two numbers is a multiple of the other (docs/method.md, eq. 15)."""
    head_dim: int
    """Channels of a head, an even number where heads are rotated."""
    gated: bool = False
    """Multiply the heads' output by a gate made of the layer's input (docs/method.md, eq. 17)."""
    gate_activation: Activation = "sigmoid"
    """Of the gate."""
    gate_init: Literal["linear", "published"] = "linear"
    """Start of the gate's kernel: as any linear map, or N(1, 0.01²), which makes it nearly all or nothing."""
    query_key_norm: bool = False
    """Normalise every head of queries and keys (docs/method.md, eq. 18)."""
    input_bias: bool = False
    """Biases of query, key, value and gate."""
    output_bias: bool = True
    """Bias of the output."""
    dropout: float = 0.0
    """Probability in [0, 1) to drop an attention weight, in training; `einsum` alone can, and `auto` then takes it."""
    implementation: AttentionImplementation = "einsum"
    """Which kernel attends; changes no number beyond rounding."""

    def __post_init__(self) -> None:
        for name in ("num_query_heads", "num_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        more, fewer = self.output_heads, min(self.num_query_heads, self.num_kv_heads)
        if more % fewer:
            raise ValueError(
                "One of num_query_heads and num_kv_heads must be a multiple of the other, got "
                f"{self.num_query_heads} and {self.num_kv_heads}. Use for example "
                f"{self.num_query_heads} and {self.num_query_heads}."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        if self.implementation not in get_args(AttentionImplementation):
            known = ", ".join(get_args(AttentionImplementation))
            raise ValueError(f"implementation must be one of {known}, got {self.implementation!r}.")
        if self.dropout and self.implementation not in ("einsum", "auto"):
            raise ValueError(f"dropout = {self.dropout} needs implementation='einsum', got {self.implementation!r}.")

    @property
    def output_heads(self) -> int:
        """Heads that enter the output projection."""
        return max(self.num_query_heads, self.num_kv_heads)

    @property
    def name(self) -> str:
        """What the literature calls this layout, as far as the numbers tell."""
        if self.num_query_heads < self.num_kv_heads:
            return "reverse SQA"
        if self.num_query_heads == self.num_kv_heads:
            return "MHA or symmetric SQA"
        return "MQA" if self.num_kv_heads == 1 else "GQA or SQA"


class Attention(nnx.Module):
    """Projections around `ops.attend`; keys and values are projected apart, so they can be cached."""

    def __init__(
        self,
        embed_dim: int,
        config: AttentionConfig,
        rotary: RotaryConfig | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.rotary = rotary
        width, embed = config.head_dim, {"embed": embed_dim}
        queries = {"query_heads": config.num_query_heads, "head_dim": width}
        keys = {"kv_heads": config.num_kv_heads, "head_dim": width}
        out = {"query_heads": config.output_heads, "head_dim": width}
        bias = config.input_bias
        self.query = Linear(embed, queries, bias=bias, rngs=rngs)
        self.key = Linear(embed, keys, bias=bias, rngs=rngs)
        self.value = Linear(embed, keys, bias=bias, rngs=rngs)
        self.output = Linear(out, embed, bias=config.output_bias, rngs=rngs)
        start = normal(0.01, 1.0) if config.gate_init == "published" else None
        gated, normed = config.gated, config.query_key_norm
        self.gate = Linear(embed, out, bias=bias, initializer=start, rngs=rngs) if gated else None
        self.query_norm = RMSNorm(width, axis="head_dim", rngs=rngs) if normed else None
        self.key_norm = RMSNorm(width, axis="head_dim", rngs=rngs) if normed else None

    def project(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B1 S"] | None = None,
        *,
        keys_of: Float[Array, "B S D"] | None = None,
    ) -> tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]:
        """Return keys and values; keys are rotated if they have positions, and made of `keys_of` where it is given."""
        keys = self.key(x if keys_of is None else keys_of)
        if self.key_norm is not None:
            keys = self.key_norm(keys)
        return rotate(self.rotary, keys, positions), self.value(x)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        keys: Float[Array, "B S K H"],
        values: Float[Array, "B S K H"],
        mask: AttentionMask | None = None,
        positions: Int[Array, "B1 T"] | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "B T D"]:
        """Attend from x; queries are rotated if they have positions. `key` is for dropout."""
        attended = attend(
            self._queries(x, positions),
            keys,
            values,
            mask,
            dropout_rate=self.config.dropout,
            dropout_key=key,
            implementation=self.config.implementation,
        )
        if self.gate is not None:
            attended = attended * activation_function(self.config.gate_activation)(self.gate(x))
        return self.output(named_activation(attended, "attended"))

    def weights(
        self,
        x: Float[Array, "B T D"],
        keys: Float[Array, "B S K H"],
        mask: AttentionMask | None = None,
        positions: Int[Array, "B1 T"] | None = None,
    ) -> Float[Array, "B heads T S"]:
        """Return the weights that a call with the same arguments gives to the keys, without dropout."""
        return attention_weights(self._queries(x, positions), keys, mask)

    def output_of(self, values: Float[Array, "B S K H"]) -> Float[Array, "B S D"]:
        """Return what a query that attends to one key alone gets, for every key; a gate counts as open."""
        repeats = self.config.output_heads // self.config.num_kv_heads
        return self.output(jnp.repeat(values, repeats, axis=2))

    def _queries(self, x: Array, positions: Array | None) -> Array:
        queries = self.query(x)
        if self.query_norm is not None:
            queries = self.query_norm(queries)
        return rotate(self.rotary, queries, positions)
