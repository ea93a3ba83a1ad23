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

from rxt_jax.model.calls import add_up_calls
from rxt_jax.nn.projection import Projection
from rxt_jax.row_sharding import map_rows

__all__ = [
    "TokenLogProbs",
    "next_token_log_probs",
    "next_token_loss",
    "projected_token_log_probs",
    "projected_token_loss",
    "token_log_probs",
]

Project = Callable[[Float[Array, "G C D"]], Float[Array, "G C V"]]
"""Makes logits of hidden states."""

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
    project: Project,
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


def _score_rows(project: Project, hidden: Array, targets: Array, mask: Array) -> TokenLogProbs:
    chunks = _Chunks.of(mask)

    def score_chunk(carry: None, chunk: tuple[Array, Array, Array]) -> tuple[None, TokenLogProbs]:
        hidden, targets, mask = chunk

        def score(hidden: Array) -> TokenLogProbs:
            return token_log_probs(project(hidden), targets, mask)

        def nothing(hidden: Array) -> TokenLogProbs:
            return TokenLogProbs(jnp.zeros(mask.shape, jnp.float32), jnp.zeros(mask.shape, bool))

        return carry, jax.lax.cond(jnp.any(mask), score, nothing, hidden)

    given = tuple(chunks.cut(x) for x in (hidden, targets, mask))
    _, found = jax.lax.scan(jax.checkpoint(score_chunk, prevent_cse=False), None, given)
    return jax.tree.map(chunks.put_back, found)


def projected_token_loss(
    project: Project,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Float[Array, ""], TokenLogProbs]:
    """Return −Σ weight · log-probability over the scored positions, and what `projected_token_log_probs` gives.

    Where nothing but this sum has a gradient, logits need not be computed twice: the slope of a chunk is computed with
    it (`model.calls.add_up_calls`). Weights are constants, and the log-probabilities pass on no gradient. On a mesh it
    is as with `projected_token_log_probs`.
    """
    if not isinstance(project, Projection):
        return _add_up_rows(project, hidden, targets, mask, weights)

    def own(rows: Any, parameters: Any, over: tuple[str, ...]) -> tuple[TokenLogProbs, Array]:
        total, found = _add_up_rows(replace(project, parameters=parameters), *rows)
        return found, jax.lax.psum(total, over) if over else total

    rows = (hidden, *(jnp.asarray(each) for each in (targets, mask, weights)))
    found, total = map_rows(own, rows, project.parameters)
    return total, found


def _add_up_rows(
    project: Project, hidden: Array, targets: Array, mask: Array, weights: Array
) -> tuple[Array, TokenLogProbs]:
    chunks = _Chunks.of(mask)
    targets, mask, weights = (chunks.cut(x) for x in (targets, mask, weights))

    def loss(hidden: Array, fixed: tuple[Array, Array, Array], _: Array) -> tuple[Array, TokenLogProbs]:
        targets, mask, weights = fixed
        found = token_log_probs(project(hidden[0]), targets[0], mask[0])
        return -jnp.sum(weights[0] * found.log_probs), jax.tree.map(lambda x: x[None], found)

    needed = jnp.any(mask, axis=(1, 2))
    total, found = add_up_calls(loss, chunks.cut(hidden), (targets, mask, weights), needed)
    return total, jax.tree.map(chunks.put_back, found)


def next_token_log_probs(
    project: Project,
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> TokenLogProbs:
    """Score the tokens of `mask`, the one at t predicted from the position before it, see `projected_token_log_probs`.

    Entry t of the result is that of token t. The first token of a row is never scored. Source: docs/method.md §13.3.
    """
    found = projected_token_log_probs(project, hidden, _from_next(ids), _scored_from_next(mask))
    return jax.tree.map(_to_next, found)


def next_token_loss(
    project: Project,
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Float[Array, ""], TokenLogProbs]:
    """Do the same as `projected_token_loss`; `weights[t]` is that of token t."""
    loss, found = projected_token_loss(project, hidden, _from_next(ids), _scored_from_next(mask), _from_next(weights))
    return loss, jax.tree.map(_to_next, found)


class _Chunks(NamedTuple):
    """Positions of rows in the order in which they are projected, those that are scored first."""

    order: Int[Array, "groups places"]
    batch: int
    size: int  # positions of a group in a chunk

    @classmethod
    def of(cls, mask: Bool[Array, "B T"]) -> "_Chunks":
        """Put the positions of neighbouring rows in order."""
        batch, length = mask.shape
        rows = math.gcd(batch, _ROWS_TOGETHER)
        places = rows * length
        order = jnp.argsort(~jnp.asarray(mask).reshape(batch // rows, places), axis=1, stable=True)
        return cls(order, batch, min(-(-places // _CHUNKS), rows * _PLACES))

    def cut(self, x: Any) -> Array:
        """`[B T ...]` → `[chunks groups size ...]`, the last chunk filled up with zeros."""
        x = jnp.asarray(x)
        groups, places = self.order.shape
        x = jax.vmap(_permute)(x.reshape(groups, places, *x.shape[2:]), self.order)
        x = jnp.pad(x, ((0, 0), (0, -places % self.size), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(groups, -1, self.size, *x.shape[2:]), 1, 0)

    def put_back(self, x: Array) -> Array:
        """`[chunks groups size]` → `[B T]`."""
        groups, places = self.order.shape
        x = jnp.moveaxis(x, 0, 1).reshape(groups, -1)[:, :places]
        return jax.vmap(_unpermute)(x, self.order).reshape(self.batch, -1)


def _from_next(x: Any) -> Array:
    return jnp.roll(jnp.asarray(x), -1, axis=1)


def _scored_from_next(mask: Any) -> Array:
    return _from_next(mask).at[:, -1].set(False)


def _to_next(x: Array) -> Array:
    return jnp.roll(x, 1, axis=1)


def _permute(rows: Array, order: Array) -> Array:
    return rows.at[order].get(unique_indices=True, mode="promise_in_bounds")


def _unpermute(values: Array, order: Array) -> Array:
    return jnp.zeros_like(values).at[order].set(values, unique_indices=True, mode="promise_in_bounds")
