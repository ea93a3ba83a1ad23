"""The stateless baseline: a decoder-only transformer that re-reads the whole conversation every turn.

It is the decoder of the Reactive Transformer without memory layers: same layers, same attention kinds,
same cache. Source: docs/method.md, eq. 53.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.compatibility import Compatibility
from rxt_jax.model.config import FeedForwardChoice
from rxt_jax.model.decoder import Decoder, KeyValueCache, MemoryProjection, norm_before_head
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.layers import LayerConfig
from rxt_jax.nn.linear import Embedding
from rxt_jax.nn.norms import NormKind
from rxt_jax.nn.projection import Projection
from rxt_jax.nn.remat import check_remat
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.nn.short_convolution import ShortConvolutionConfig, check_causal
from rxt_jax.row_sharding import constrain
from rxt_jax.types import Key

__all__ = ["BaselineConfig", "BaselineTransformer"]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """A decoder-only transformer. Source: docs/method.md, eq. 53."""

    vocab_size: int
    """Tokens, V."""
    embed_dim: int
    """Width of tokens, D."""
    num_layers: int
    """All layers."""
    max_length: int
    """Tokens of a whole conversation."""
    attention: AttentionConfig
    """Self-attention of all layers."""
    feed_forward: FeedForwardChoice
    """Of all layers but the first ones that `first_layers` speaks of."""
    first_layers: tuple[FeedForwardChoice, ...] = ()
    """Feed-forwards of the first layers, where they differ."""
    head_norm: NormKind | None = None
    """Norm before the head; None = none."""
    norm: NormKind = "rms"
    """Of all layers."""
    rotary_base: float | None = 10000.0
    """None = no positions at all."""
    short_convolution: ShortConvolutionConfig | None = None
    """Of all layers; None = none. It sees tokens before alone."""
    induction: bool = False
    """The first layer begins as an induction head (docs/method.md §10.9)."""
    tie_embeddings: bool = False
    """The embedding is the head as well, without a bias."""
    embedding_std: float = 1.0
    """Standard deviation that the embedding starts from; published: 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters, norms, softmax and losses stay float32."""
    scan_unroll: int = 1
    """Layers that share one scan step: more is faster to run and slower to compile."""
    remat: str = "none"
    """What of a layer is kept for the gradient: none (all of it), full, names or offload (`nn/remat.py`)."""
    compatibility: Compatibility = field(default_factory=Compatibility)
    """Published behaviour, off by default."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
        check_causal("short_convolution", self.short_convolution)
        for name in ("vocab_size", "embed_dim", "num_layers", "max_length", "scan_unroll"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if len(self.first_layers) > self.num_layers:
            raise ValueError(f"first_layers has {len(self.first_layers)} entries, more than num_layers.")

    @property
    def decoder(self) -> "BaselineConfig":
        """What a `ModelConfig` says about its decoder, this one says itself."""
        return self

    def decoder_layers(self) -> tuple[LayerConfig, ...]:
        """List the layers that read memory: none."""
        return ()

    def stateless_layers(self, *, final: bool) -> tuple[LayerConfig, ...]:
        """List the layers; all of them come before the memory that is not there."""
        if final:
            return ()
        rest = (self.feed_forward,) * (self.num_layers - len(self.first_layers))
        rotary = None
        if self.rotary_base is not None:
            rotary = RotaryConfig(
                base=self.rotary_base,
                legacy_layout=self.compatibility.legacy_rotary_layout,
                angles_in_compute_dtype=self.compatibility.rotary_angles_in_compute_dtype,
            )
        return tuple(
            LayerConfig(
                attention=self.attention,
                feed_forward=feed_forward,
                norm=self.norm,
                rotary=rotary,
                short_convolution=self.short_convolution,
                induction=self.induction and number == 0,
            )
            for number, feed_forward in enumerate(self.first_layers + rest)
        )


class BaselineTransformer(nnx.Module):
    """Embedding, layers, head. It answers to the calls of generation, with a memory that it does not read."""

    def __init__(self, config: BaselineConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embed_dim, std=config.embedding_std, rngs=rngs)
        self.decoder = Decoder(config, has_head=not config.tie_embeddings, rngs=rngs)

    def decode_hidden(
        self, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], memory: None = None, *, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, ""]]:
        """Return the last hidden states and the routers' balance loss; there is no memory to read."""
        empty = jnp.zeros((0, len(ids), 1, self.config.embed_dim), self.config.dtype)
        return self.decoder(self._embed(ids), token_mask, empty, key=key)

    @property
    def logits(self) -> Projection:
        """The head, or the embedding table where they are tied: hidden states `[... D]` → logits `[... V]`, float32."""
        if not self.config.tie_embeddings:
            return self.decoder.logits
        return Projection.of(_apply_table, {"embedding": self.embedding, **self.decoder.before_head})

    def decode(
        self, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], memory: None = None, *, key: Key | None = None
    ) -> Float[Array, "B T V"]:
        """Return float32 logits of the next token at every position."""
        logits = self.logits(self.decode_hidden(ids, token_mask, key=key)[0])
        return constrain(logits, ("batch", None, "vocab"))

    def project_memory(self, memory: object = None) -> MemoryProjection:
        """Return nothing to read."""
        del memory
        return MemoryProjection(())

    def empty_cache(self, batch: int, length: int) -> KeyValueCache:
        """Make a cache for `length` tokens per row."""
        return self.decoder.empty_cache(batch, length, jnp.dtype(self.config.dtype))

    def decode_cached(
        self,
        ids: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        token_mask: Bool[Array, "B T"],
        cache: KeyValueCache,
        memory_projection: MemoryProjection,
        *,
        logits_at: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B ..."], KeyValueCache]:
        """Decode new tokens against a cache, see `ReactiveTransformer.decode_cached`."""
        hidden, cache = self.decoder.step(self._embed(ids), positions, token_mask, cache, memory_projection)
        if logits_at is not None:
            hidden = jnp.take_along_axis(hidden, logits_at[:, None, None], axis=1)[:, 0]
        return self.logits(hidden), cache

    def _embed(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return constrain(self.embedding(ids).astype(self.config.dtype), ("batch", None, None))


def _apply_table(modules: dict[str, Any], hidden: Array) -> Array:
    normed = norm_before_head(modules, hidden)
    table = modules["embedding"].table[...].astype(normed.dtype)
    return jnp.matmul(normed, table.T, preferred_element_type=jnp.float32)
