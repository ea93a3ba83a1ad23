"""The pre-norm transformer layer, and stacks of equal layers that are scanned.

x ← x + SelfAttention(N1 x)
x ← x + CrossAttention(N2 x, N_memory memory)      only in layers that read memory
x ← x + FeedForward(N3 x)

Where a layer has short convolutions, self-attention and feed-forward see C1(N1 x) and C2(N3 x). In a layer that begins
as an induction head a token's key is made of the token before it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.nn.attention import Attention, AttentionConfig
from rxt_jax.nn.copying_start import check_copying, start_induction
from rxt_jax.nn.feed_forward import FeedForward, FeedForwardConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig, MixtureOfExperts
from rxt_jax.nn.norms import NormKind, make_norm
from rxt_jax.nn.remat import named_activation
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.nn.short_convolution import ShortConvolution, ShortConvolutionConfig, go_on, neighbours
from rxt_jax.ops.attention import AttentionMask
from rxt_jax.ops.columns import put_columns
from rxt_jax.row_sharding import constrain
from rxt_jax.types import Key

__all__ = ["CachedKeys", "LayerCache", "LayerConfig", "TokenContext", "TransformerLayer", "last_tokens"]


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer, docs/method.md, eq. 47."""

    attention: AttentionConfig
    """Self-attention."""
    feed_forward: FeedForwardConfig | MixtureConfig
    """Dense, or a mixture of experts."""
    cross_attention: AttentionConfig | None = None
    """None: the layer does not read memory."""
    norm: NormKind = "rms"
    """Of all norms of the layer, that of the memory it reads included."""
    rotary: RotaryConfig | None = field(default_factory=RotaryConfig)
    """None = no positions at all."""
    short_convolution: ShortConvolutionConfig | None = None
    """Of what self-attention and feed-forward see; None = every token by itself."""
    induction: bool = False
    """Keys of self-attention are made of the token before: it begins as an induction head (docs/method.md §10.9)."""
    zero_padding: bool = False
    """Zero padded inputs of self-attention (`Compatibility.zero_padding`)."""
    zero_padded_queries: bool = False
    """Zero what padded positions ask of memory (`Compatibility.causal_ignores_padding`)."""


class TokenContext(NamedTuple):
    """What all layers of a component share about the tokens of this call."""

    positions: Int[Array, "B1 T"]
    token_mask: Bool[Array, "B T"]
    attention_mask: AttentionMask | None
    memory_mask: AttentionMask | None = None
    balance_groups: int | None = None
    """The rows r, r + groups, r + 2 · groups, … have a balance loss of their own; None = one loss for all rows."""


class CachedKeys(NamedTuple):
    """Keys and values of one layer, or of a stack of layers with a leading axis."""

    keys: Float[Array, "... S K H"]
    values: Float[Array, "... S K H"]

    def written(self, keys: Float[Array, "B T K H"], values: Float[Array, "B T K H"], columns: Array) -> "CachedKeys":
        """Put keys and values into their columns; columns beyond the cache are dropped by XLA."""
        return CachedKeys(put_columns(self.keys, columns, keys), put_columns(self.values, columns, values))


class LayerCache(NamedTuple):
    """What a layer, or a stack of layers with a leading axis, keeps of the tokens so far."""

    own: CachedKeys
    last: dict[str, Float[Array, "... N D"]]
    """What its short convolutions and its induction head saw of the last N tokens, by place; see `last_tokens`."""


def last_tokens(config: LayerConfig) -> dict[str, int]:
    """Say of how many last tokens a layer that makes text keeps what it saw, by place in the layer."""
    places = {}
    if config.short_convolution is not None:
        places = dict.fromkeys(("attention", "feed_forward"), config.short_convolution.before)
    return places | ({"keys": 1} if config.induction else {})


class TransformerLayer(nnx.Module):
    """One pre-norm layer. Source: docs/method.md, eq. 47."""

    def __init__(self, embed_dim: int, config: LayerConfig, *, rngs: nnx.Rngs):
        self.config = config
        norm = config.norm
        self.attention_norm = make_norm(norm, embed_dim, rngs=rngs)
        self.attention = Attention(embed_dim, config.attention, config.rotary, rngs=rngs)
        if config.induction:
            check_copying(embed_dim, config.attention, "induction")
            start_induction(self.attention, rngs)
        if config.cross_attention is not None:
            self.cross_attention_norm = make_norm(norm, embed_dim, rngs=rngs)
            self.cross_attention_memory_norm = make_norm(norm, embed_dim, rngs=rngs)
            self.cross_attention = Attention(embed_dim, config.cross_attention, config.rotary, rngs=rngs)
        self.feed_forward_norm = make_norm(norm, embed_dim, rngs=rngs)
        self.feed_forward = (
            MixtureOfExperts(embed_dim, config.feed_forward, rngs=rngs)
            if isinstance(config.feed_forward, MixtureConfig)
            else FeedForward(embed_dim, config.feed_forward, rngs=rngs)
        )
        if config.short_convolution is not None:
            self.attention_convolution = ShortConvolution(embed_dim, config.short_convolution, rngs=rngs)
            self.feed_forward_convolution = ShortConvolution(embed_dim, config.short_convolution, rngs=rngs)

    def project_memory(self, memory: Float[Array, "B S D"]) -> CachedKeys:
        """Return the cross-attention keys (never rotated) and values of a memory layer."""
        normed = self.cross_attention_memory_norm(memory)
        return CachedKeys(*self.cross_attention.project(normed))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: TokenContext,
        memory: CachedKeys | None = None,
        cache: LayerCache | None = None,
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "*groups"], LayerCache | None]:
        """Return the tokens, the balance loss (0 for a dense layer) and the cache with these tokens."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        x, cache = self._attend_to_tokens(x, context, cache, keys[0])
        if memory is not None:
            x = x + self._read(self._memory_query(x, context), memory, context, keys[1])
        normed, cache = self._convolve("feed_forward", self.feed_forward_norm(x), context, cache)
        groups = context.balance_groups
        balance = jnp.zeros(() if groups is None else groups, jnp.float32)
        if isinstance(self.feed_forward, MixtureOfExperts):
            update, balance = self.feed_forward(normed, context.token_mask, balance_groups=groups, key=keys[2])
        else:
            update = self.feed_forward(normed, key=keys[2])
        x = named_activation(constrain(x + update, ("batch", None, None)), "states")
        return x, balance, cache

    def memory_weights(
        self, x: Float[Array, "B T D"], context: TokenContext, memory: CachedKeys
    ) -> Float[Array, "B T S"]:
        """Return the weights with which the tokens of a call with the same arguments read memory, mean over heads."""
        x, _ = self._attend_to_tokens(x, context, None, None)
        query = self._memory_query(x, context)
        weights = self.cross_attention.weights(query, memory.keys, context.memory_mask, context.positions)
        return jnp.mean(weights, axis=1)

    def slot_outputs(self, memory: CachedKeys) -> Float[Array, "B S D"]:
        """Return what a token that reads one slot alone adds to itself, for every slot."""
        return self.cross_attention.output_of(memory.values)

    def _convolve(
        self, place: str, x: Array, context: TokenContext, cache: LayerCache | None
    ) -> tuple[Array, LayerCache | None]:
        """Show tokens their neighbours, before self-attention or feed-forward."""
        if self.config.short_convolution is None:
            return x, cache
        convolution = self.attention_convolution if place == "attention" else self.feed_forward_convolution
        if cache is None:
            return convolution(x, context.positions, context.token_mask), None
        x, last = convolution.step(x, context.token_mask, cache.last[place])
        return x, cache._replace(last=cache.last | {place: last})

    def _keys_of(
        self, x: Array, context: TokenContext, cache: LayerCache | None
    ) -> tuple[Array | None, LayerCache | None]:
        """Give every token the one before it, of which its key is made in an induction head."""
        if not self.config.induction:
            return None, cache
        if cache is None:
            return neighbours(x, 1, context.positions), None
        row, last = go_on(cache.last["keys"], x, context.token_mask)
        return row[:, :-1], cache._replace(last=cache.last | {"keys": last})

    def _attend_to_tokens(
        self, x: Array, context: TokenContext, cache: LayerCache | None, key: Key | None
    ) -> tuple[Array, LayerCache | None]:
        normed = self.attention_norm(x)
        if self.config.zero_padding:
            normed = jnp.where(context.token_mask[..., None], normed, 0.0)
        normed, cache = self._convolve("attention", normed, context, cache)
        keys_of, cache = self._keys_of(normed, context, cache)
        own = CachedKeys(*self.attention.project(normed, context.positions, keys_of=keys_of))
        if cache is not None:
            own = cache.own.written(*own, context.positions)
            cache = cache._replace(own=own)
        return x + self.attention(normed, *own, context.attention_mask, context.positions, key=key), cache

    def _memory_query(self, x: Array, context: TokenContext) -> Array:
        normed = self.cross_attention_norm(x)
        return jnp.where(context.token_mask[..., None], normed, 0.0) if self.config.zero_padded_queries else normed

    def _read(self, x: Array, memory: CachedKeys, context: TokenContext, key: Key | None) -> Array:
        """Attend to memory. Where it has fewer rows than the tokens, r neighbouring rows read each of its rows.

        Without a causal mask r rows of T tokens are one row of r · T: nothing of memory is copied.
        """
        rows, length, _ = x.shape
        readers = rows // memory.keys.shape[0]
        positions, mask = context.positions, context.memory_mask
        if readers > 1:
            together = (rows // readers, readers * length)
            x = x.reshape(*together, -1)
            positions = jnp.broadcast_to(positions, (rows, length)).reshape(together)
            slots = memory.keys.shape[1]
            visible = None if mask is None else mask.dense(slots)
            if visible is not None:
                mask = AttentionMask(pairs=jnp.broadcast_to(visible, (rows, length, slots)).reshape(*together, slots))
        return self.cross_attention(x, *memory, mask, positions, key=key).reshape(rows, length, -1)
