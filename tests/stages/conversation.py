"""A miniature model that keeps the contract of `ReactiveTransformer`, and random conversations.

Stage and training tests prove the machinery around a model, so they use the smallest model that
can be wrong about masks, memory and gradients. Golden cases use the real one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.types import EpisodeBatch, RowBatch

VOCABULARY, WIDTH, LAYERS, SLOTS = 16, 8, 2, 3


class _Parts(nnx.Module):
    def __init__(self, **parts: nnx.Param):
        for name, part in parts.items():
            setattr(self, name, part)


class MiniatureModel(nnx.Module):
    """One matrix per component; attention is an average over real tokens or a softmax over
    slots."""

    has_dropout = False

    def __init__(self, seed: int = 0, learned: bool = True):
        keys = iter(jax.random.split(jax.random.key(seed), 12))

        def weight(*shape: int, axes: tuple) -> nnx.Param:
            value = jax.random.normal(next(keys), shape) / shape[-2] ** 0.5
            return nnx.Param(value, axes=axes)

        square = ("embed", "mlp")
        self.embedding = _Parts(
            table=nnx.Param(jax.random.normal(next(keys), (VOCABULARY, WIDTH)), axes=("vocab", "embed"))
        )
        self.encoder = _Parts(kernel=weight(LAYERS, WIDTH, WIDTH, axes=square))
        self.decoder = _Parts(
            self_kernel=weight(LAYERS, WIDTH, WIDTH, axes=square),
            cross_attention=_Parts(kernel=weight(LAYERS, WIDTH, WIDTH, axes=square)),
        )
        self.memory_attention = _Parts(kernel=weight(LAYERS, WIDTH, WIDTH, axes=square))
        self.masked_language_head = _Parts(kernel=weight(WIDTH, VOCABULARY, axes=("embed", "vocab")))
        self.is_learned = learned
        if learned:
            self.learned_memory = _Parts(
                slots=weight(LAYERS, SLOTS, WIDTH, axes=("slots", "embed")),
            )

    def embed(self, tokens):
        return tokens if jnp.issubdtype(tokens.dtype, jnp.floating) else self.embedding.table[...][tokens]

    def encode(self, tokens, token_mask, *, documents=None, key=None):
        del key
        hidden, states = self.embed(tokens), []
        for layer in range(LAYERS):
            real = jnp.sum(token_mask, axis=1, keepdims=True)[..., None]
            mean = jnp.sum(hidden * token_mask[..., None], axis=1, keepdims=True)
            mean = mean / jnp.maximum(real, 1)
            hidden = hidden + jnp.tanh((hidden + mean) @ self.encoder.kernel[...][layer])
            states.append(hidden)
        return jnp.stack(states)

    def encode_balanced(self, tokens, token_mask, *, balance_groups=None, **options):
        return self.encode(tokens, token_mask, **options), jnp.zeros(() if balance_groups is None else balance_groups)

    def update_memory(self, memory, encoded, token_mask, *, key=None):
        del key
        queries = jnp.einsum("LBSD,LDE->LBSE", memory, self.memory_attention.kernel[...])
        scores = jnp.einsum("LBSD,LBTD->LBST", queries, encoded)
        weights = jax.nn.softmax(jnp.where(token_mask[None, :, None], scores, -1e30), axis=-1)
        read = jnp.einsum("LBST,LBTD->LBSD", weights * token_mask[None, :, None], encoded)
        return 0.5 * memory + 0.5 * jnp.tanh(read)

    def decode_hidden(
        self, tokens, token_mask, memory, *, memory_mask=None, documents=None, balance_groups=None, key=None
    ):
        del key
        hidden = self.embed(tokens)
        memory = jnp.repeat(memory, len(hidden) // memory.shape[1], axis=1)  # fewer rows are read by neighbours
        for layer in range(LAYERS):
            kernel = self.decoder.self_kernel[...][layer]
            seen = jnp.cumsum(hidden * token_mask[..., None], axis=1)
            hidden = hidden + jnp.tanh(seen @ kernel)
            cross = self.decoder.cross_attention.kernel[...][layer]
            scores = jnp.einsum("BTD,BSD->BTS", hidden @ cross, memory[layer])
            mask = jnp.ones(memory.shape[1:3], bool) if memory_mask is None else memory_mask
            weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
            hidden = hidden + jnp.einsum("BTS,BSD->BTD", weights * mask[:, None], memory[layer])
        # Something that depends on the weights and on real tokens only, as a router loss does.
        real = token_mask.reshape(-1, balance_groups or 1, token_mask.shape[1], 1)
        squares = jnp.sum((hidden.reshape(*real.shape[:3], WIDTH) * real) ** 2, axis=(0, 2, 3))
        balance = squares / jnp.maximum(jnp.sum(real, axis=(0, 2, 3)), 1) / 100
        return hidden, balance[0] if balance_groups is None else balance

    def logits(self, hidden):
        return hidden @ self.embedding.table[...].T

    def decode(self, ids, token_mask, memory, *, memory_mask=None, key=None):
        return self.logits(self.decode_hidden(ids, token_mask, memory, memory_mask=memory_mask, key=key)[0])

    def masked_language_logits(self, hidden):
        return hidden @ self.masked_language_head.kernel[...]

    def initial_memory(self, batch, key):
        if self.is_learned:
            slots = self.learned_memory.slots[...]
            return jnp.broadcast_to(slots[:, None], (LAYERS, batch, SLOTS, WIDTH))
        return jax.random.normal(key, (LAYERS, batch, SLOTS, WIDTH))


class NoisyModel(MiniatureModel):
    """Reads with dropout of a kind: what it says depends on its key."""

    def decode_hidden(self, tokens, token_mask, memory, *, key=None, **options):
        hidden, balance = super().decode_hidden(tokens, token_mask, memory, **options)
        return hidden if key is None else hidden + jax.random.normal(key, hidden.shape), balance


def random_rows(seed: int = 0, rows: int = 4, length: int = 7) -> RowBatch:
    """Rows of different length with labels on their second half and a few masked tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, length + 1, rows)
    token_mask = np.arange(length) < lengths[:, None]
    ids = np.where(token_mask, rng.integers(5, VOCABULARY, (rows, length)), 0).astype(np.int32)
    loss_mask = token_mask & (np.arange(length) >= lengths[:, None] // 2)
    mlm_mask = token_mask & (rng.random((rows, length)) < 0.4)
    return RowBatch(ids, token_mask, loss_mask, mlm_mask, masked_ids=np.where(mlm_mask, np.int32(4), ids))


def random_episodes(
    seed: int = 0, interactions: int = 4, rows: int = 4, length: int = 6, ragged: bool = True
) -> EpisodeBatch:
    """Conversations of different lengths; row 0 is always full."""
    parts = [random_rows(seed * 100 + i, rows, length) for i in range(interactions)]
    ids, token_mask, loss_mask = (np.stack([part[leaf] for part in parts]) for leaf in range(3))
    turns = np.random.default_rng(seed).integers(1, interactions + 1, rows)
    turns[0] = interactions
    valid = np.arange(interactions)[:, None] < (turns if ragged else interactions)
    return EpisodeBatch(ids, token_mask, loss_mask, np.broadcast_to(valid, (interactions, rows)))
