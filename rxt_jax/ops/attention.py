"""The one attention function. Every head layout of the library is a case of it."""

from functools import partial
from typing import Any

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
    Source: docs/method.md, eq. 14 and 15.
    """
    batch, length, query_heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if query_heads < kv_heads:
        query = jnp.tile(query, (1, 1, kv_heads // query_heads, 1))
        query_heads = kv_heads
    # Heads lead, so that every product is one of plain matrices; the group of a key head is more rows of queries.
    grouped = (query * head_dim**-0.5).reshape(batch, length, kv_heads, query_heads // kv_heads, head_dim)
    rows = jnp.moveaxis(grouped, 1, 3).reshape(batch, kv_heads, -1, head_dim)
    attended: Any = _weigh(rows, key.swapaxes(1, 2), value.swapaxes(1, 2), mask, dropout_key, dropout_rate)
    attended = attended.reshape(batch, kv_heads, query_heads // kv_heads, length, head_dim)
    return jnp.moveaxis(attended, 3, 1).reshape(batch, length, query_heads, head_dim)


# The derivative is written by hand because the one that JAX derives keeps or transposes `[B K R S]` arrays, which
# cost more than the products. This one keeps a number per query, from which the weights are one exponential away.
@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _weigh(
    query: Float[Array, "B K R H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S H"],
    mask: Bool[Array, "B T1 S"] | None,
    dropout_key: Key | None,
    dropout_rate: float,
) -> Float[Array, "B K R H"]:
    """Compute softmax(q kᵀ) v for the R = G · T queries of every key head, group by group; queries come scaled."""
    return _weigh_forward(query, key, value, mask, dropout_key, dropout_rate)[0]


def _weigh_forward(
    query: Array, key: Array, value: Array, mask: Array | None, dropout_key: Key | None, dropout_rate: float
) -> tuple[Array, tuple[Any, ...]]:
    scores = _scores(query, key, mask)
    # A query without any key has no peak; this one makes its weights exp(-5e29) = 0. All others sum to 1 at least.
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=_EXCLUDED / 2)
    weights = jnp.exp(scores - peak)
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
    attended = (_product("BKRS,BKSH->BKRH", weights, value) / total).astype(value.dtype)
    return attended, (query, key, value, mask, dropout_key, attended, peak + jnp.log(total))


def _weigh_backward(
    dropout_rate: float, kept: tuple[Any, ...], slope: Float[Array, "B K R H"]
) -> tuple[Array | None, ...]:
    query, key, value, mask, dropout_key, attended, log_sum = kept
    weights = jnp.exp(_scores(query, key, mask) - log_sum)
    # What a weight contributes, less what all weights of the query contribute together.
    mean = jnp.sum(slope.astype(jnp.float32) * attended.astype(jnp.float32), axis=-1, keepdims=True)
    gain = dropout(_product("BKRH,BKSH->BKRS", slope, value), dropout_rate, dropout_key) - mean
    score_slope = (weights * gain).astype(query.dtype)
    weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
    query_slope = _product("BKRS,BKSH->BKRH", score_slope, key)
    # Sums over queries as H × S products: only the narrow factor and the result are transposed.
    key_slope = _product("BKRH,BKRS->BKHS", query, score_slope).swapaxes(-1, -2)
    value_slope = _product("BKRH,BKRS->BKHS", slope, weights).swapaxes(-1, -2)
    return query_slope.astype(query.dtype), key_slope.astype(key.dtype), value_slope.astype(value.dtype), None, None


_weigh.defvjp(_weigh_forward, _weigh_backward)


def _scores(
    query: Float[Array, "B K R H"], key: Float[Array, "B K S H"], mask: Bool[Array, "B T1 S"] | None
) -> Float[Array, "B K R S"]:
    scores = _product("BKRH,BKSH->BKRS", query, key)
    if mask is None:
        return scores
    groups = 1 if mask.shape[1] == 1 else query.shape[2] // mask.shape[1]
    return jnp.where(jnp.tile(mask, (1, groups, 1))[:, None], scores, _EXCLUDED)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)
