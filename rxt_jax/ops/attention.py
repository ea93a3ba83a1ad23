"""The one attention function. Every head layout and every mask of the library is a case of it."""

from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.ops.dropout import dropout
from rxt_jax.ops.splash_attention import LEAST_SCORES, attend_by_splash, splash_serves
from rxt_jax.row_sharding import map_rows, rows_are_own
from rxt_jax.types import Key

__all__ = [
    "AttentionImplementation",
    "AttentionMask",
    "attend",
    "attention_weights",
    "choose_implementation",
    "document_mask",
    "document_positions",
]

AttentionImplementation = Literal["einsum", "xla", "cudnn", "splash", "auto"]
"""Equal numbers up to rounding. `einsum`: the body of this file, the only one with dropout. `xla` and `cudnn`: those
behind `jax.nn.dot_product_attention`; `cudnn` wants an NVIDIA device and bfloat16. `splash`: JAX's kernel for TPUs
(`ops/splash_attention.py`); elsewhere it is interpreted, which is for tests. `auto`: `splash` on a TPU and `cudnn` on
an NVIDIA device where they serve and there is enough to do, else `einsum`."""

_EXCLUDED = -1e30  # finite, so that a row without any key stays free of NaN


class AttentionMask(NamedTuple):
    """What queries may see, as facts that hold together, so that a kernel can make use of each; None hides nothing.

    `keys`: the real keys. `documents`: the document of every token, for T = S; a query sees its own document, and
    nobody sees document 0, padding. `pairs`: any other mask, per query or (T1 = 1) for all. `causal`: a query sees the
    keys up to its own position, for T = S. True = visible.
    """

    keys: Bool[Array, "B S"] | None = None
    documents: Int[Array, "B T"] | None = None
    pairs: Bool[Array, "B T1 S"] | None = None
    causal: bool = False  # not an array: known when a program is traced

    def dense(self, num_keys: int) -> Bool[Array, "B1 T1 S"] | None:
        """Join the facts into one mask whose first two dimensions may be 1; None where nothing is hidden."""
        facts = []
        if self.causal:
            facts.append(jnp.tril(jnp.ones((1, num_keys, num_keys), bool)))
        if self.keys is not None:
            facts.append(self.keys[:, None, :])
        if self.documents is not None:
            facts.append(document_mask(self.documents))
        if self.pairs is not None:
            facts.append(self.pairs)
        return reduce(jnp.logical_and, facts) if facts else None


def document_mask(documents: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Let every query see the tokens of its own document; number 0 is padding, which nobody sees."""
    return (documents[:, :, None] == documents[:, None, :]) & (documents > 0)[:, None, :]


def document_positions(documents: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Count positions from 0 in every document of a packed row."""
    columns = jnp.arange(documents.shape[1])
    before = jnp.pad(documents[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts = jax.lax.cummax(jnp.where(documents != before, columns, 0), axis=1)
    return columns - starts


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: AttentionMask | None = None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Key | None = None,
    implementation: AttentionImplementation = "einsum",
) -> Float[Array, "B T heads H"]:
    """Compute softmax(q kᵀ / √H) v with max(N, K) output heads.

    N > K (GQA, MQA, SQA): query head i uses key head i // (N / K), keys are repeated.
    N < K (reverse SQA): output head j uses query head j mod N, queries are tiled.
    A query that sees no key gets zeros. Scores and softmax are float32. Every implementation gives these numbers; an
    error says what one of them cannot do. Source: docs/method.md, eq. 14 and 15.
    """
    length, num_keys = query.shape[1], key.shape[1]
    mask = AttentionMask() if mask is None else mask
    if length != num_keys and (mask.causal or mask.documents is not None):
        raise ValueError(
            f"causal and documents are about tokens that attend to each other, got {length} queries and {num_keys} "
            f"keys. Say with `pairs` who sees whom."
        )
    query_heads, kv_heads = query.shape[2], key.shape[2]
    if query_heads < kv_heads:
        query = jnp.tile(query, (1, 1, kv_heads // query_heads, 1))
    drops = dropout_key is not None and dropout_rate > 0.0
    if implementation == "auto":
        implementation = "einsum" if drops else choose_implementation(query, key, mask)
    if implementation == "einsum":
        return _attend(query, key, value, mask, dropout_rate, dropout_key)
    if drops:
        raise ValueError(f"the {implementation} implementation has no dropout of attention. Use 'einsum'.")
    if implementation == "splash":
        attended = _attend_by_splash(query, key, value, mask)
    else:
        attended = _attend_by_library(query, key, value, mask, implementation)
    visible = mask.dense(num_keys)
    if visible is None:
        return attended
    # There a query that sees no key gets a mean of all values.
    return jnp.where(jnp.any(visible, axis=-1)[..., None, None], attended, jnp.zeros_like(attended))


def choose_implementation(
    query: Float[Array, "B T N H"], key: Float[Array, "B S K H"], mask: AttentionMask
) -> Literal["einsum", "cudnn", "splash"]:
    """Say what `auto` is for these shapes, on the devices that a program is traced for."""
    platform = _platform()
    if platform == "tpu" and splash_serves(query, key, has_pairs=mask.pairs is not None) is None:
        # The partitioner cannot split a kernel: every device has to have rows and heads of its own.
        return "splash" if rows_are_own(query.shape[0]) else "einsum"
    if platform in ("gpu", "cuda") and query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0:
        return "cudnn" if query.shape[1] * key.shape[1] >= LEAST_SCORES else "einsum"
    return "einsum"


def _platform() -> str:
    """Name the devices that a program is traced for, which need not be there."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def attention_weights(
    query: Float[Array, "B T N H"], key: Float[Array, "B S K H"], mask: AttentionMask | None = None
) -> Float[Array, "B heads T S"]:
    """Compute softmax(q kᵀ / √H), the weights with which `attend` joins values, for those who want to see them.

    A query that sees no key has zeros. Source: docs/method.md, eq. 14 and 15.
    """
    query_heads, kv_heads = query.shape[2], key.shape[2]
    if query_heads < kv_heads:
        query = jnp.tile(query, (1, 1, kv_heads // query_heads, 1))
    batch, length, heads, _ = query.shape
    mask = AttentionMask() if mask is None else mask
    scores = _scores(_group_queries(query, kv_heads), key.swapaxes(1, 2), mask)
    # As in `_weigh_forward`: a query without any key gets zeros.
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=_EXCLUDED / 2)
    weights = jnp.exp(scores - peak)
    weights = weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    return weights.reshape(batch, heads, length, -1)


def _attend_by_library(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: AttentionMask,
    implementation: Literal["xla", "cudnn"],
) -> Float[Array, "B T N H"]:
    listed = mask._replace(causal=False).dense(key.shape[1])
    if listed is not None:
        # cuDNN wants an entry for every query, also where all of them see the same keys.
        listed = jnp.broadcast_to(listed, (listed.shape[0], query.shape[1], key.shape[1]))[:, None]
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=listed,
        is_causal=mask.causal,
        implementation=implementation,
    )


def _attend_by_splash(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: AttentionMask,
) -> Float[Array, "B T N H"]:
    reason = splash_serves(query, key, has_pairs=mask.pairs is not None, least=0)
    if reason is not None:
        raise ValueError(f"splash attention cannot serve this: {reason}. Use 'auto' or 'einsum'.")
    queries, keys = None, None
    if mask.keys is not None or mask.documents is not None:
        ones = jnp.ones(query.shape[:2], jnp.int32)
        queries = ones if mask.documents is None else mask.documents
        keys = jnp.ones(key.shape[:2], jnp.int32) if mask.documents is None else mask.documents
        if mask.keys is not None:
            # Where there is no real key all are kept: a row that sees nothing is set to zero afterwards.
            keys = jnp.where(mask.keys | ~jnp.any(mask.keys, axis=-1, keepdims=True), keys, -1)

    def own(rows: Any, _: Any, __: tuple[str, ...]) -> tuple[Array, tuple[()]]:
        return attend_by_splash(*rows, causal=mask.causal, interpret=_platform() != "tpu"), ()

    return map_rows(own, (query, key, value, queries, keys))[0]


def _attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: AttentionMask,
    dropout_rate: float,
    dropout_key: Key | None,
) -> Float[Array, "B T N H"]:
    batch, length, query_heads, head_dim = query.shape
    kv_heads = key.shape[2]
    rows = _group_queries(query, kv_heads)
    arrays = (mask.keys, mask.documents, mask.pairs)
    attended: Any = _weigh(
        rows, key.swapaxes(1, 2), value.swapaxes(1, 2), arrays, dropout_key, mask.causal, dropout_rate
    )
    attended = attended.reshape(batch, kv_heads, query_heads // kv_heads, length, head_dim)
    return jnp.moveaxis(attended, 3, 1).reshape(batch, length, query_heads, head_dim)


def _group_queries(query: Float[Array, "B T N H"], kv_heads: int) -> Float[Array, "B K R H"]:
    """Scale queries and put those of a key head together.

    Heads lead, so that every product is one of plain matrices; the group of a key head is more rows of queries.
    """
    batch, length, query_heads, head_dim = query.shape
    grouped = (query * head_dim**-0.5).reshape(batch, length, kv_heads, query_heads // kv_heads, head_dim)
    return jnp.moveaxis(grouped, 1, 3).reshape(batch, kv_heads, -1, head_dim)


# The derivative is written by hand because the one that JAX derives keeps or transposes `[B K R S]` arrays, which
# cost more than the products. This one keeps a number per query, from which the weights are one exponential away.
# The same goes for the mask: it is made of its facts wherever it is needed.
@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _weigh(
    query: Float[Array, "B K R H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S H"],
    mask: tuple[Array | None, ...],
    dropout_key: Key | None,
    causal: bool,
    dropout_rate: float,
) -> Float[Array, "B K R H"]:
    """Compute softmax(q kᵀ) v for the R = G · T queries of every key head, group by group; queries come scaled.

    `mask` are the arrays of an `AttentionMask`.
    """
    return _weigh_forward(query, key, value, mask, dropout_key, causal, dropout_rate)[0]


def _weigh_forward(
    query: Array,
    key: Array,
    value: Array,
    mask: tuple[Array | None, ...],
    dropout_key: Key | None,
    causal: bool,
    dropout_rate: float,
) -> tuple[Array, tuple[Any, ...]]:
    scores = _scores(query, key, AttentionMask(*mask, causal=causal))
    # A query without any key has no peak; this one makes its weights exp(-5e29) = 0. All others sum to 1 at least.
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=_EXCLUDED / 2)
    weights = jnp.exp(scores - peak)
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
    attended = (_product("BKRS,BKSH->BKRH", weights, value) / total).astype(value.dtype)
    return attended, (query, key, value, mask, dropout_key, attended, peak + jnp.log(total))


def _weigh_backward(
    causal: bool, dropout_rate: float, kept: tuple[Any, ...], slope: Float[Array, "B K R H"]
) -> tuple[Array | None, ...]:
    query, key, value, mask, dropout_key, attended, log_sum = kept
    weights = jnp.exp(_scores(query, key, AttentionMask(*mask, causal=causal)) - log_sum)
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
    query: Float[Array, "B K R H"], key: Float[Array, "B K S H"], mask: AttentionMask
) -> Float[Array, "B K R S"]:
    scores = _product("BKRH,BKSH->BKRS", query, key)
    visible = mask.dense(key.shape[2])
    if visible is None:
        return scores
    groups = 1 if visible.shape[1] == 1 else query.shape[2] // visible.shape[1]
    return jnp.where(jnp.tile(visible, (1, groups, 1))[:, None], scores, _EXCLUDED)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)
