"""Log-probabilities of tokens, without the logits of all positions: what every likelihood in this package is made of.

Cross-entropies add them up over a batch, preferences over an answer, and evaluation reads them one by one.
Source: docs/method.md, eq. 63 and §16.1.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.nn.projection import Projection
from rxt_jax.row_sharding import map_rows

__all__ = ["TokenLogProbs", "next_token_log_probs", "projected_token_log_probs", "token_log_probs"]

_ROWS_TOGETHER = 4  # rows whose scored positions are gathered in common
_CHUNKS = 8  # at least, so that an eighth of the logits exists at a time
_PLACES = 64  # tokens of a row in a chunk, at most


class TokenLogProbs(NamedTuple):
    """Of every token: its log-probability in float32, and whether no other token is likelier (an exact tie counts).

    0 and False where nothing is scored.
    """

    log_probs: Float[Array, "*B T"]
    correct: Bool[Array, "*B T"]


def token_log_probs(
    logits: Float[Array, "*B T V"], targets: Int[Array, "*B T"], mask: Bool[Array, "*B T"]
) -> TokenLogProbs:
    """Score every position of `mask` against its own target, in float32. Nothing is shifted."""
    # Zeroed before and masked after: what is not scored passes on no inf or NaN, nor its gradient.
    logits = jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)
    # Targets outside the vocabulary only occur where nothing is scored; clip keeps the gather in range.
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    largest = jnp.max(jax.lax.stop_gradient(logits), axis=-1)  # argmax is slow on a CPU
    log_probs = jnp.where(mask, picked - jax.nn.logsumexp(logits, axis=-1), 0.0)
    return TokenLogProbs(log_probs, mask & (picked >= largest))


def projected_token_log_probs(
    project: Callable[[Float[Array, "G C D"]], Float[Array, "G C V"]],
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> TokenLogProbs:
    """Score `project(hidden)` like `token_log_probs`, a few positions at a time.

    An answer is a fraction of its row and the head a large share of a small model's work. The scored positions of every
    few neighbouring rows are moved to the front and projected in chunks of at most 64 tokens of a row; chunks without
    one are skipped, and logits are computed again in the backward pass. On a mesh every device does so with its own
    rows, as long as `project` is a `Projection`, which says what its parameters are: the head is gathered once for all
    chunks, and so is its gradient added up.
    """
    if not isinstance(project, Projection):
        return _score_rows(project, hidden, targets, mask)

    def own(rows: Any, parameters: Any, _: tuple[str, ...]) -> tuple[TokenLogProbs, tuple[()]]:
        return _score_rows(replace(project, parameters=parameters), *rows), ()

    return map_rows(own, (hidden, jnp.asarray(targets), jnp.asarray(mask)), project.parameters)[0]


def _score_rows(project: Callable[[Array], Array], hidden: Array, targets: Array, mask: Array) -> TokenLogProbs:
    batch, length = mask.shape
    rows = math.gcd(batch, _ROWS_TOGETHER)
    groups, places = batch // rows, rows * length
    size = min(-(-places // _CHUNKS), rows * _PLACES)
    chunks = -(-places // size)
    scored_first = jnp.argsort(~jnp.asarray(mask).reshape(groups, places), axis=1, stable=True)

    def in_chunks(x: Array) -> Array:
        x = jax.vmap(_permute)(jnp.asarray(x).reshape(groups, places, -1), scored_first)
        x = jnp.pad(x, ((0, 0), (0, chunks * size - places), (0, 0)))
        return jnp.moveaxis(x.reshape(groups, chunks, size, -1), 1, 0)

    def put_back(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1).reshape(groups, chunks * size)[:, :places]
        return jax.vmap(_unpermute)(x, scored_first).reshape(batch, length)

    def score_chunk(carry: None, chunk: tuple[Array, Array, Array]) -> tuple[None, TokenLogProbs]:
        hidden, targets, mask = chunk[0], chunk[1][..., 0], chunk[2][..., 0]

        def score(hidden: Array) -> TokenLogProbs:
            return token_log_probs(project(hidden), targets, mask)

        def nothing(hidden: Array) -> TokenLogProbs:
            return TokenLogProbs(jnp.zeros(mask.shape, jnp.float32), jnp.zeros(mask.shape, bool))

        return carry, jax.lax.cond(jnp.any(mask), score, nothing, hidden)

    given = (in_chunks(hidden), in_chunks(targets), in_chunks(mask))
    _, found = jax.lax.scan(jax.checkpoint(score_chunk, prevent_cse=False), None, given)
    return jax.tree.map(put_back, found)


def next_token_log_probs(
    project: Callable[[Float[Array, "G C D"]], Float[Array, "G C V"]],
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> TokenLogProbs:
    """Score the tokens of `mask`, the one at t predicted from the position before it, see `projected_token_log_probs`.

    Entry t of the result is that of token t. The first token of a row is never scored. Source: docs/method.md §13.3.
    """
    scored = jnp.roll(jnp.asarray(mask), -1, axis=1).at[:, -1].set(False)
    found = projected_token_log_probs(project, hidden, jnp.roll(ids, -1, axis=1), scored)
    return jax.tree.map(lambda x: jnp.roll(x, 1, axis=1), found)


def _permute(rows: Array, order: Array) -> Array:
    return rows.at[order].get(unique_indices=True, mode="promise_in_bounds")


def _unpermute(values: Array, order: Array) -> Array:
    return jnp.zeros_like(values).at[order].set(values, unique_indices=True, mode="promise_in_bounds")
