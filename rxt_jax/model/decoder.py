"""The decoder: answers the current query, reading memory by cross-attention."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.compatibility import Compatibility
from rxt_jax.nn.layers import CachedKeys, LayerCache, LayerConfig, TokenContext, TransformerLayer, last_tokens
from rxt_jax.nn.linear import Linear
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.norms import make_norm
from rxt_jax.nn.projection import Projection
from rxt_jax.nn.stack import LayerStack, join_layers
from rxt_jax.ops.attention import AttentionMask, document_positions
from rxt_jax.ops.columns import put_columns
from rxt_jax.types import Key

__all__ = ["Decoder", "KeyValueCache", "MemoryProjection", "norm_before_head"]


@runtime_checkable
class DecoderLayout(Protocol):
    """What a decoder needs to know of its model: a `ModelConfig`, or a `BaselineConfig`."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def scan_unroll(self) -> int: ...
    @property
    def remat(self) -> str: ...
    @property
    def compatibility(self) -> Compatibility: ...
    @property
    def decoder(self) -> Any: ...

    def decoder_layers(self) -> tuple[LayerConfig, ...]: ...

    def stateless_layers(self, *, final: bool) -> tuple[LayerConfig, ...]: ...


class MemoryProjection(NamedTuple):
    """Cross-attention keys and values of every memory layer, computed once per interaction.

    One entry per segment of equal layers, leaves `[layers B S K H]`.
    """

    segments: tuple[CachedKeys, ...]


class KeyValueCache(NamedTuple):
    """Self-attention keys and values of every decoder layer, and which columns are real tokens.

    `stateless`, `layers`, `final` have one entry per segment, keys and values `[layers B length K H]`.
    """

    stateless: tuple[LayerCache, ...]
    layers: tuple[LayerCache, ...]
    final: tuple[LayerCache, ...]
    mask: Bool[Array, "B length"]

    def widened(self, length: int) -> "KeyValueCache":
        """Make room for `length` tokens per row, which is no less than there is."""

        def pad(leaf: Array, axis: int) -> Array:
            room = [(0, 0)] * leaf.ndim
            room[axis] = (0, length - leaf.shape[axis])
            return jnp.pad(leaf, room)

        def widen(segments: tuple[LayerCache, ...]) -> tuple[LayerCache, ...]:
            return tuple(each._replace(own=CachedKeys(*(pad(leaf, 2) for leaf in each.own))) for each in segments)

        return KeyValueCache(widen(self.stateless), widen(self.layers), widen(self.final), pad(self.mask, 1))


class Decoder(nnx.Module):
    """Stateless layers, layers with memory, final stateless layers, head. Source: docs/method.md §10.3."""

    def __init__(self, config: "DecoderLayout", *, has_head: bool = True, rngs: nnx.Rngs):
        def stack(layers: tuple) -> LayerStack:
            return LayerStack(
                layers,
                lambda layer, rngs: TransformerLayer(config.embed_dim, layer, rngs=rngs),
                unroll=config.scan_unroll,
                remat=config.remat,
                rngs=rngs,
            )

        self.stateless = stack(config.stateless_layers(final=False))
        self.layers = stack(config.decoder_layers())
        self.final = stack(config.stateless_layers(final=True))
        norm = config.decoder.head_norm
        self.head_norm = None if norm is None else make_norm(norm, config.embed_dim, rngs=rngs)
        vocab = {"vocab": config.vocab_size}
        self.head = Linear({"embed": config.embed_dim}, vocab, rngs=rngs) if has_head else None
        self.embed_dim = config.embed_dim
        self.ignores_padding = config.compatibility.causal_ignores_padding
        self.num_balanced = _count_balanced(config)

    @jax.named_scope("read")
    def project_memory(self, memory: Float[Array, "L B S D"]) -> MemoryProjection:
        """Compute what cross-attention needs of memory."""

        def apply(layer: TransformerLayer, carry: None, slots: Array, _: Key | None) -> tuple:
            return carry, layer.project_memory(slots)

        _, segments = self.layers.scan(apply, None, self.layers.split(memory))
        return MemoryProjection(segments)

    def empty_cache(self, batch: int, length: int, dtype: Any) -> KeyValueCache:
        """Make room for `length` tokens per row."""

        def room(stack: LayerStack) -> tuple[LayerCache, ...]:
            caches = []
            for config, count in zip(stack.configs, stack.counts, strict=True):
                heads = (config.attention.num_kv_heads, config.attention.head_dim)
                empty = jnp.zeros((count, batch, length, *heads), dtype)
                last = {
                    place: jnp.zeros((count, batch, number, self.embed_dim), dtype)
                    for place, number in last_tokens(config).items()
                }
                caches.append(LayerCache(CachedKeys(empty, empty), last))
            return tuple(caches)

        mask = jnp.zeros((batch, length), bool)
        return KeyValueCache(room(self.stateless), room(self.layers), room(self.final), mask)

    @jax.named_scope("read")
    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        token_mask: Bool[Array, "B T"],
        memory: Float[Array, "L M S D"],
        *,
        memory_mask: Bool[Array, "B *T S"] | None = None,
        documents: Int[Array, "B T"] | None = None,
        balance_groups: int | None = None,
        key: Key | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "*groups"]]:
        """Return the last hidden states and the mean balance loss of the mixture layers.

        A memory mask may differ from token to token; `documents` keeps those of packed rows apart. `balance_groups`:
        see `TokenContext`.
        """
        context = self._context(token_mask, embedded.shape[1], memory_mask, documents)
        context = context._replace(balance_groups=balance_groups)
        hidden, balance, _, _ = self._run(embedded, context, self.layers.split(memory), None, key)
        return hidden, balance

    def watch(
        self, embedded: Float[Array, "B T D"], token_mask: Bool[Array, "B T"], memory: Float[Array, "L B S D"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "L B T S"]]:
        """Return the last hidden states of a call, and the weights with which tokens read the slots of every layer."""
        context = self._context(token_mask, embedded.shape[1], None, None)
        hidden, _, _, weights = self._run(embedded, context, self.layers.split(memory), None, None, watched=True)
        return hidden, join_layers(weights)

    def slot_outputs(self, memory: Float[Array, "L B S D"]) -> Float[Array, "L B S D"]:
        """Return what a token that reads one slot alone adds to itself in that slot's layer."""

        def apply(layer: TransformerLayer, carry: None, slots: Array, _: Key | None) -> tuple[None, Array]:
            return carry, layer.slot_outputs(layer.project_memory(slots))

        return join_layers(self.layers.scan(apply, None, self.layers.split(memory))[1])

    @jax.named_scope("read")
    def step(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        token_mask: Bool[Array, "B T"],
        cache: KeyValueCache,
        projection: MemoryProjection,
    ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
        """Run new tokens at their positions against the cache; return it with them written."""
        mask = put_columns(cache.mask, positions, token_mask)
        columns = jnp.arange(mask.shape[1])
        context = TokenContext(
            positions=positions,
            token_mask=token_mask,
            attention_mask=AttentionMask(keys=mask, pairs=columns <= positions[..., None]),
        )
        hidden, _, caches, _ = self._run(embedded, context, projection.segments, cache, None)
        return hidden, KeyValueCache(caches[0], caches[1], caches[2], mask)

    @property
    def logits(self) -> Projection:
        """Map hidden states `[... D]` to logits `[... V]`; products accumulate and come out in float32."""
        if self.head is None:
            raise ValueError("this decoder was made without a head; its model has the logits")
        return Projection.of(_apply_head, {"head": self.head, **self.before_head})

    @property
    def before_head(self) -> dict[str, nnx.Module]:
        """Return what hidden states go through before a head: a norm, or nothing. See `norm_before_head`."""
        return {} if self.head_norm is None else {"norm": self.head_norm}

    def _context(
        self, token_mask: Array, length: int, memory_mask: Array | None, documents: Array | None
    ) -> TokenContext:
        visible = AttentionMask(keys=None if self.ignores_padding else token_mask, documents=documents, causal=True)
        positions = jnp.arange(length)[None] if documents is None else document_positions(documents)
        readable = None
        if memory_mask is not None:
            readable = AttentionMask(keys=memory_mask) if memory_mask.ndim == 2 else AttentionMask(pairs=memory_mask)
        return TokenContext(positions=positions, token_mask=token_mask, attention_mask=visible, memory_mask=readable)

    def _run(
        self,
        x: Array,
        context: TokenContext,
        memory: tuple,
        cache: KeyValueCache | None,
        key: Key | None,
        *,
        watched: bool = False,
    ) -> tuple[Array, Array, tuple, tuple]:
        """Return tokens, balance loss, caches, and where `watched` the weights of memory by segment."""

        def apply(layer: TransformerLayer, x: Array, inputs: tuple, key: Key | None) -> tuple[Array, tuple]:
            memory, cached = inputs
            if memory is not None and not isinstance(memory, CachedKeys):
                memory = layer.project_memory(memory.astype(x.dtype))
            weights = layer.memory_weights(x, context, memory) if watched and memory is not None else None
            x, balance, cached = layer(x, context, memory, cached, key=key)
            return x, (balance, cached, weights)

        parts = ((self.stateless, None), (self.layers, memory), (self.final, None))
        total, caches, read = jnp.float32(0.0), [], ()
        for number, (stack, memories) in enumerate(parts):
            empty = (None,) * len(stack.counts)
            cached = empty if cache is None else cache[number]
            inputs = tuple(zip(memories or empty, cached, strict=True))
            part_key = None if key is None else jax.random.fold_in(key, number)
            x, outputs = stack.scan(apply, x, inputs, key=part_key)
            caches.append(tuple(cached for _, cached, _ in outputs))
            read = tuple(weights for _, _, weights in outputs) if number == 1 else read
            if number < 2 or self.num_balanced.final:
                total = total + sum(jnp.sum(balance, axis=0) for balance, _, _ in outputs)
        return x, total / max(self.num_balanced.total, 1), tuple(caches), read


def norm_before_head(modules: dict[str, Any], hidden: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Apply the norm before a head, if there is one among the modules of a projection."""
    return modules["norm"](hidden) if "norm" in modules else hidden


@jax.named_scope("head")
def _apply_head(modules: dict[str, Any], hidden: Array) -> Array:
    return modules["head"](norm_before_head(modules, hidden), wide=True)


class _Balanced(NamedTuple):
    """How many mixture layers share the balance loss, and whether final stateless ones do."""

    total: int
    final: bool


def _count_balanced(config: "DecoderLayout") -> _Balanced:
    mixtures = [
        layer.feed_forward
        for layer in (*config.stateless_layers(final=False), *config.decoder_layers())
        if isinstance(layer.feed_forward, MixtureConfig)
    ]
    final = [
        layer.feed_forward
        for layer in config.stateless_layers(final=True)
        if isinstance(layer.feed_forward, MixtureConfig)
    ]
    # The published loss leaves the final layers out (docs/method.md, eq. 46).
    counted = [mixture for mixture in final if mixture.balance_loss != "published"]
    return _Balanced(len(mixtures) + len(counted), bool(counted))
