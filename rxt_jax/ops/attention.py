"""The one attention function. Every head layout of the library is a case of it."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.ops.dropout import dropout
from rxt_jax.types import Key

__all__ = ["attend", "causal_mask", "key_mask", "segment_mask", "segment_positions"]

_EXCLUDED = -1e30  # finite, so that a row without any key stays free of NaN


def key_mask(token_mask: Bool[Array, "B S"]) -> Bool[Array, "B 1 S"]:
    """Let every query see the real tokens."""
    return token_mask[:, None, :]


def causal_mask(token_mask: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Let every query see the real tokens up to its own position."""
    length = token_mask.shape[1]
    return jnp.tril(jnp.ones((length, length), bool)) & token_mask[:, None, :]


def segment_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Let every query see the tokens of its own document; segment 0 is padding, which nobody sees."""
    return (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Count positions from 0 in every document of a packed row."""
    columns = jnp.arange(segments.shape[1])
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts = jax.lax.cummax(jnp.where(segments != before, columns, 0), axis=1)
    return columns - starts


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B T1 S"] | None = None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Key | None = None,
) -> Float[Array, "B T heads H"]:
    """Compute softmax(q kᵀ / √H) v with max(N, K) output heads; mask True = visible.

    N > K (GQA, MQA, SQA): query head i uses key head i // (N / K), keys are repeated.
    N < K (reverse SQA): output head j uses query head j mod N, queries are tiled.
    A query that sees no key gets zeros. Scores and softmax are float32.
    Source: architecture spec §5.2-5.4.
    """
    batch, length, query_heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if query_heads < kv_heads:
        query = jnp.tile(query, (1, 1, kv_heads // query_heads, 1))
        query_heads = kv_heads
    grouped = query.reshape(batch, length, kv_heads, query_heads // kv_heads, head_dim)
    visible = None if mask is None else mask[:, None, None]

    # Scores and weights are computed again in the backward pass: keeping `[B heads T S]` float32
    # arrays of every layer costs more time than their two products, and the most memory.
    @partial(jax.checkpoint, prevent_cse=False)
    def weigh(grouped: Array, key: Array, value: Array) -> Array:
        scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, key, preferred_element_type=jnp.float32) * (head_dim**-0.5)
        if visible is not None:
            scores = jnp.where(visible, scores, _EXCLUDED)
        weights = jax.nn.softmax(scores, axis=-1)
        if visible is not None:
            weights = jnp.where(visible, weights, 0.0)
        weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
        return jnp.einsum("BKGTS,BSKH->BTKGH", weights, value)

    attended = weigh(grouped, key, value)
    return attended.reshape(batch, length, query_heads, head_dim)
