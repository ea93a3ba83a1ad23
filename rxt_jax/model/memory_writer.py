"""The half of a model that makes memory: the memory before a conversation, the encoder, and the write.

Whoever derives from it has the parts: the model that answers, and the reward model that judges answers.
Source: docs/method.md §2.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.config import ModelConfig
from rxt_jax.model.encoder import Encoder
from rxt_jax.model.initial_memory import LearnedMemory, draw_memory
from rxt_jax.model.memory_attention import MemoryAttention
from rxt_jax.nn.linear import Embedding
from rxt_jax.nn.slot_groups import begin_ages
from rxt_jax.row_sharding import constrain
from rxt_jax.types import Key

__all__ = ["MemoryWriter", "Tokens"]

Tokens = Int[Array, "*B T"] | Float[Array, "*B T D"]
"""Ids, or what `embed` makes of them."""


class MemoryWriter(nnx.Module):
    """Functions of an embedding, an encoder, a memory attention and perhaps a learned initial memory."""

    config: ModelConfig
    embedding: Embedding
    encoder: Encoder
    memory_attention: MemoryAttention
    learned_memory: LearnedMemory

    @property
    def has_dropout(self) -> bool:
        """Whether encoder or decoder drop anything in training."""
        return self.config.has_dropout

    def initial_memory(self, batch: int, key: Key | None = None) -> Float[Array, "L B S D"]:
        """Return the memory before a conversation, float32; the random kinds need a key."""
        groups = self.config.memory_attention.layer.slot_groups
        memory = self._first_slots(batch, key)
        return memory if groups == 1 else begin_ages(memory, groups)

    def _first_slots(self, batch: int, key: Key | None) -> Array:
        if self.config.initial_memory == "learned":
            return self.learned_memory(batch)
        config = self.config
        shape = (config.num_layers, batch, config.num_slots, config.embed_dim)
        key = jax.random.key(0) if key is None else key
        scale = 0.02 if config.compatibility.small_initial_memory else 0.01
        return draw_memory(config.initial_memory, shape, key, scale=scale)

    def embed(self, tokens: Tokens) -> Float[Array, "... T D"]:
        """Look ids up in the table that encoder and decoder share; what is embedded already stays as it is.

        Whoever calls them in a loop embeds before it: then the slope of the table is added up once.
        """
        is_embedded = jnp.issubdtype(tokens.dtype, jnp.floating)
        embedded = (tokens if is_embedded else self.embedding(tokens)).astype(self.config.dtype)
        rows = 1 if embedded.ndim > 3 else 0  # of `[I B ...]` rows come second
        return constrain(embedded, ["batch" if place == rows else None for place in range(embedded.ndim)])

    def encode(
        self,
        tokens: Tokens,
        token_mask: Bool[Array, "B T"],
        *,
        documents: Int[Array, "B T"] | None = None,
        key: Key | None = None,
    ) -> Float[Array, "L B T D"]:
        """Encode an interaction, given as ids or embedded; the states of every layer are returned.

        `documents`: see `RowBatch`.
        """
        return self.encode_balanced(tokens, token_mask, documents=documents, key=key)[0]

    def encode_balanced(
        self,
        tokens: Tokens,
        token_mask: Bool[Array, "B T"],
        *,
        documents: Int[Array, "B T"] | None = None,
        balance_groups: int | None = None,
        key: Key | None = None,
    ) -> tuple[Float[Array, "L B T D"], Float[Array, "*groups"]]:
        """Return also the balance loss of the encoder's routers (0 for a dense model).

        With `balance_groups` the rows r, r + groups, r + 2 · groups, … have a loss of their own: those of the same
        interaction, where several share a call.
        """
        return self.encoder(self.embed(tokens), token_mask, documents=documents, balance_groups=balance_groups, key=key)

    def update_memory(
        self,
        memory: Float[Array, "L B S D"],
        encoded: Float[Array, "L B T D"],
        token_mask: Bool[Array, "B T"],
        *,
        key: Key | None = None,
    ) -> Float[Array, "L B S D"]:
        """Write an encoded interaction; the result has the dtype of `memory`, which is not rounded on the way."""
        if memory.shape[1] != encoded.shape[1]:
            raise ValueError(
                f"memory and encoded must have the same batch, got {memory.shape[1]} and "
                f"{encoded.shape[1]}. Repeat the memory if one conversation branches."
            )
        # Noise that a stage adds is float32; the network computes in its own dtype all the same.
        encoded = encoded.astype(self.config.dtype)
        memory = constrain(memory, (None, "batch", None, None))
        written = self.memory_attention(memory, encoded, token_mask, key=key).astype(memory.dtype)
        return constrain(written, (None, "batch", None, None))
