"""Choosing the next token of every row, each by settings of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rxt_jax.row_sharding import map_rows
from rxt_jax.types import ShapedArray

__all__ = ["Sampling", "filter_logits", "sample"]


class Sampling(NamedTuple):
    """How the rows of a batch are sampled; arrays, so that rows may differ and another value compiles nothing.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off. `min_p` drops tokens less
    likely than this share of the likeliest one.
    """

    temperature: ShapedArray  # float32 [B]
    top_k: ShapedArray  # int32 [B]
    top_p: ShapedArray  # float32 [B]
    min_p: ShapedArray  # float32 [B]


def filter_logits(logits: Float[Array, "B V"], sampling: Sampling) -> Float[Array, "B V"]:
    """Divide by the temperature and drop what top-k, top-p and min-p exclude (−∞), in this order.

    Ties at the k-th place stay; the token that crosses `top_p` stays. A greedy row keeps its best token alone.
    Source: docs/method.md §12.1.
    """
    greedy = (sampling.temperature == 0.0)[:, None]
    only_best = jnp.where(jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True), 0.0, -jnp.inf)
    logits = logits / jnp.where(greedy, 1.0, sampling.temperature[:, None])
    # Sorting a vocabulary costs more than a small model: only where a row asks for it.
    ranked = jnp.any((sampling.top_k > 0) | (sampling.top_p < 1.0))
    logits = jax.lax.cond(ranked, _drop_by_rank, lambda logits, *_: logits, logits, sampling.top_k, sampling.top_p)
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(sampling.min_p)[:, None]
    return jnp.where(greedy, only_best, jnp.where(logits < floor, -jnp.inf, logits))


def sample(
    logits: Float[Array, "B V"], sampling: Sampling, keys: Key[Array, "B"], numbers: Int[Array, "B"]
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Draw token `numbers[b]` of every row from its own key; return ids and their log-probabilities after filtering.

    A row draws the same in any batch.
    """

    def draw() -> tuple[Array, Array]:
        # On a mesh every device draws for its own rows.
        return map_rows(_draw, (logits, sampling, keys, numbers))[0]

    def take_best() -> tuple[Array, Array]:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.zeros(len(logits), logits.dtype)

    # Random bits for a whole vocabulary cost more than a small model: none where every row is greedy.
    return jax.lax.cond(jnp.any(sampling.temperature > 0.0), draw, take_best)


def _draw(rows: Any, _: Any, __: tuple[str, ...]) -> tuple[tuple[Array, Array], tuple[()]]:
    logits, sampling, keys, numbers = rows
    filtered = filter_logits(logits, sampling)
    drawn = jax.vmap(jax.random.categorical)(jax.vmap(jax.random.fold_in)(keys, numbers), filtered)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(filtered, axis=-1), drawn[:, None], axis=-1)[:, 0]
    return (drawn.astype(jnp.int32), log_probs), ()


def _drop_by_rank(logits: Array, top_k: Array, top_p: Array) -> Array:
    """Apply top-k, then top-p to what is left; one sort serves both."""
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    last = jnp.clip(top_k, 1, logits.shape[-1])[:, None] - 1
    threshold = jnp.where((top_k > 0)[:, None], jnp.take_along_axis(ranked, last, axis=-1), -jnp.inf)
    ranked = jnp.where(ranked < threshold, -jnp.inf, ranked)
    probabilities = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounded sums may exceed 1, so a row with top-p off must not be compared.
    kept = (ranked > -jnp.inf) & ((before <= top_p[:, None]) | (top_p >= 1.0)[:, None])
    rows = jnp.arange(len(logits))[:, None]
    return jnp.where(jnp.zeros(logits.shape, bool).at[rows, order].set(kept), logits, -jnp.inf)
