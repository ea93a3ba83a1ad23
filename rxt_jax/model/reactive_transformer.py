"""The Reactive Transformer: encoder, memory attention and decoder around a memory that is passed by hand.

answer   ← decode(query, memory)
memory′  ← update_memory(memory, encode(query + answer))
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.config import ModelConfig
from rxt_jax.model.critic import Critic
from rxt_jax.model.decoder import Decoder, KeyValueCache, MemoryProjection
from rxt_jax.model.encoder import Encoder
from rxt_jax.model.initial_memory import LearnedMemory
from rxt_jax.model.masked_language_head import MaskedLanguageHead
from rxt_jax.model.memory_attention import MemoryAttention
from rxt_jax.model.memory_writer import MemoryWriter, Tokens
from rxt_jax.model.reward_model import RewardModel
from rxt_jax.nn.linear import Embedding
from rxt_jax.nn.memory_layer import WatchedWrite
from rxt_jax.nn.projection import Projection
from rxt_jax.row_sharding import constrain
from rxt_jax.types import Key

__all__ = ["ReactiveTransformer"]


class ReactiveTransformer(MemoryWriter):
    """All parameters of a model, and the functions of its parts; no memory, cache or key lives here.

    `token_mask` is True for real tokens. `key` drives dropout, None means none.
    Source: docs/method.md §2.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        embed_dim, vocab_size = config.embed_dim, config.vocab_size
        self.embedding = Embedding(vocab_size, embed_dim, std=config.embedding_std, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.memory_attention = MemoryAttention(config, rngs=rngs)
        self.masked_language_head = MaskedLanguageHead(embed_dim, vocab_size, rngs=rngs)
        if config.initial_memory == "learned":
            self.learned_memory = LearnedMemory(
                config.num_layers,
                config.num_slots,
                embed_dim,
                config.initial_memory_std,
                rngs=rngs,
            )

        if config.critic is not None:
            self.critic = Critic(config, config.critic, rngs=rngs)
        if config.reward_model is not None:
            self.reward_model = RewardModel(config, rngs=rngs)

    def decode_hidden(
        self,
        tokens: Tokens,
        token_mask: Bool[Array, "B T"],
        memory: Float[Array, "L M S D"],
        *,
        memory_mask: Bool[Array, "B *T S"] | None = None,
        documents: Int[Array, "B T"] | None = None,
        balance_groups: int | None = None,
        key: Key | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "*groups"]]:
        """Return the last hidden states and the routers' balance loss (0 for a dense model).

        The number of slots is free: encoder states can stand in for memory. `memory_mask` False
        hides slots, from all tokens or from each its own. Memory may have fewer rows than there are,
        M = B / r: then rows 0 … r − 1 read its row 0, and so on (several answers to one query).
        `documents`: see `RowBatch`; `balance_groups`: see `encode_balanced`.
        """
        if tokens.shape[0] % memory.shape[1]:
            raise ValueError(f"{tokens.shape[0]} rows cannot share a memory of {memory.shape[1]} rows evenly.")
        return self.decoder(
            self.embed(tokens),
            token_mask,
            memory,
            memory_mask=memory_mask,
            documents=documents,
            balance_groups=balance_groups,
            key=key,
        )

    @property
    def logits(self) -> Projection:
        """The decoder's head, a function of hidden states: `[... D]` → logits `[... V]`, float32."""
        return self.decoder.logits

    def decode(
        self,
        ids: Int[Array, "B T"],
        token_mask: Bool[Array, "B T"],
        memory: Float[Array, "L B S D"],
        *,
        memory_mask: Bool[Array, "B S"] | None = None,
        key: Key | None = None,
    ) -> Float[Array, "B T V"]:
        """Return float32 logits of the next token at every position."""
        logits = self.logits(self.decode_hidden(ids, token_mask, memory, memory_mask=memory_mask, key=key)[0])
        return constrain(logits, ("batch", None, "vocab"))

    def watch_reading(
        self, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], memory: Float[Array, "L B S D"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "L B T S"]]:
        """Return the hidden states of `decode_hidden`, and the weights with which every token read the slots."""
        return self.decoder.watch(self.embed(ids), token_mask, memory)

    def watch_writing(
        self, memory: Float[Array, "L B S D"], encoded: Float[Array, "L B T D"], token_mask: Bool[Array, "B T"]
    ) -> WatchedWrite:
        """Return gates and attention weights of `update_memory` with the same arguments."""
        return self.memory_attention.watch(memory, encoded.astype(self.config.dtype), token_mask)

    def slot_logits(self, memory: Float[Array, "L B S D"]) -> Float[Array, "L B S V"]:
        """Read every slot out through the decoder's own value path and head, as if a token read nothing else.

        A heuristic: the layers behind, which a real reading passes, are left out, and an attention gate counts as open.
        """
        return self.logits(self.decoder.slot_outputs(memory.astype(self.config.dtype)))

    @property
    def masked_language_logits(self) -> Projection:
        """The masked-language head, a function of the last encoder states: `[B T D]` → logits `[B T V]`, float32."""
        return Projection.of(_restore, {"head": self.masked_language_head})

    def value(
        self, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], memory: Float[Array, "L B S D"]
    ) -> Float[Array, "B"]:
        """Say what a state is worth; only for models with a critic. The text may be longer than an interaction."""
        if self.config.critic is None:
            raise ValueError("this model has no critic: set `critic` in its config, as CriticConfig().")
        return self.critic(ids, token_mask, memory)

    def project_memory(self, memory: Float[Array, "L B S D"]) -> MemoryProjection:
        """Compute the decoder's view of memory once, for `decode_cached`."""
        return self.decoder.project_memory(memory.astype(self.config.dtype))

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
        """Decode new tokens against a cache: a whole prompt, or one token per row.

        A token's position is also its column in the cache. `logits_at` picks one of the T tokens of
        every row: then logits are `[B V]`, else `[B T V]`.
        """
        hidden, cache = self.decoder.step(self.embed(ids), positions, token_mask, cache, memory_projection)
        if logits_at is not None:
            hidden = jnp.take_along_axis(hidden, logits_at[:, None, None], axis=1)[:, 0]
        return self.decoder.logits(hidden), cache


def _restore(modules: dict[str, Any], hidden: Array) -> Array:
    return modules["head"](hidden)
