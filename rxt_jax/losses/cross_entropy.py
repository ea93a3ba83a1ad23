"""Cross-entropy as sums and counts, so that accumulation, devices and batches can be joined
exactly."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "TokenLoss",
    "answer_cross_entropy",
    "projected_answer_cross_entropy",
    "projected_cross_entropy",
    "token_cross_entropy",
]

_ROWS_TOGETHER = 4  # rows whose scored positions are gathered in common
_CHUNKS = 8


class TokenLoss(NamedTuple):
    """Sums over the scored positions; `loss / count` is the mean, `correct / count` the
    accuracy."""

    loss: Float[Array, ""]
    count: Float[Array, ""]
    correct: Float[Array, ""]


def token_cross_entropy(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> TokenLoss:
    """Score every position of `mask` against its own target, in float32.

    Nothing is shifted. No scored position gives zeros, so a caller divides by `max(count, 1)`.
    A target that ties with the largest logit counts as correct. Source: docs/method.md, eq. 63.
    """
    # Zeroed before and masked after: what is not scored passes on no inf or NaN, nor its gradient.
    logits = jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)
    # Targets outside the vocabulary only occur where nothing is scored; clip keeps the gather in
    # range.
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    largest = jnp.max(jax.lax.stop_gradient(logits), axis=-1)
    surprise = jnp.where(mask, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)
    return TokenLoss(
        loss=jnp.sum(surprise),
        count=jnp.sum(mask, dtype=jnp.float32),
        correct=jnp.sum(mask & (picked >= largest), dtype=jnp.float32),
    )


def answer_cross_entropy(
    logits: Float[Array, "B T V"], ids: Int[Array, "B T"], loss_mask: Bool[Array, "B T"]
) -> TokenLoss:
    """Score the next token: position t − 1 predicts the token at t wherever `loss_mask[t]` is True.

    The first token of a row is never a target. Source: docs/method.md §13.3 and eq. 63.
    """
    return token_cross_entropy(logits[:, :-1], ids[:, 1:], loss_mask[:, 1:])


def projected_cross_entropy(
    project: Callable[[Float[Array, "G C D"]], Float[Array, "G C V"]],
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> TokenLoss:
    """Score `project(hidden)` like `token_cross_entropy`, without the logits of all positions.

    An answer is a fraction of its row and the head a large share of a small model's work. The
    scored positions of every few neighbouring rows are moved to the front and projected in
    chunks; chunks without one are skipped, and logits are computed again in the backward pass, so
    that an eighth of them exists at a time. Rows of a shard stay on their device as long as it
    holds a multiple of four.
    """
    batch, length = mask.shape
    rows = math.gcd(batch, _ROWS_TOGETHER)
    groups, places = batch // rows, rows * length
    size = -(-places // _CHUNKS)
    nothing = TokenLoss(*(jnp.float32(0.0),) * 3)
    scored_first = jnp.argsort(~jnp.asarray(mask).reshape(groups, places), axis=1, stable=True)

    def in_chunks(x: Array) -> Array:
        x = jax.vmap(_permute)(jnp.asarray(x).reshape(groups, places, -1), scored_first)
        x = jnp.pad(x, ((0, 0), (0, _CHUNKS * size - places), (0, 0)))
        return jnp.moveaxis(x.reshape(groups, _CHUNKS, size, -1), 1, 0)

    def add_chunk(total: TokenLoss, chunk: tuple[Array, Array, Array]) -> tuple[TokenLoss, None]:
        hidden, targets, mask = chunk[0], chunk[1][..., 0], chunk[2][..., 0]

        def score(hidden: Array) -> TokenLoss:
            return token_cross_entropy(project(hidden), targets, mask)

        found = jax.lax.cond(jnp.any(mask), score, lambda _: nothing, hidden)
        return jax.tree.map(jnp.add, total, found), None

    chunks = (in_chunks(hidden), in_chunks(targets), in_chunks(mask))
    return jax.lax.scan(jax.checkpoint(add_chunk, prevent_cse=False), nothing, chunks)[0]


def _permute(rows: Array, order: Array) -> Array:
    return rows.at[order].get(unique_indices=True, mode="promise_in_bounds")


def projected_answer_cross_entropy(
    project: Callable[[Float[Array, "G C D"]], Float[Array, "G C V"]],
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    loss_mask: Bool[Array, "B T"],
) -> TokenLoss:
    """Score the next token like `answer_cross_entropy`, see `projected_cross_entropy`."""
    scored = jnp.roll(jnp.asarray(loss_mask), -1, axis=1).at[:, -1].set(False)
    return projected_cross_entropy(project, hidden, jnp.roll(ids, -1, axis=1), scored)
