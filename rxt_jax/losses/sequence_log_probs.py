"""Log-probabilities of whole answers, without the logits of a whole row. Source: docs/method.md §16.1."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "LogProbReduction",
    "SequenceLogProbs",
    "projected_sequence_log_probs",
    "sequence_log_probs",
    "shared_length_weights",
]

LogProbReduction = Literal["sum", "mean", "sqrt_len"]
"""What stands for an answer of n tokens: the sum of their log-probabilities (the theory; β about 0.1), their
mean (published; β of 1 to 10), or the sum over √n."""

_PLACES = 64  # tokens of a row that are projected together


class SequenceLogProbs(NamedTuple):
    """Sums of the scored tokens' log-probabilities and their number, `[B]` each; 0 where nothing is scored."""

    total: Float[Array, "*B"]
    length: Float[Array, "*B"]

    def reduced(self, reduction: LogProbReduction) -> Float[Array, "*B"]:
        """Divide by n, √n or nothing."""
        powers = {"sum": 0.0, "mean": 1.0, "sqrt_len": 0.5}
        return self.total / jnp.maximum(self.length, 1.0) ** powers[reduction]


def sequence_log_probs(
    logits: Float[Array, "B T V"], ids: Int[Array, "B T"], loss_mask: Bool[Array, "B T"]
) -> SequenceLogProbs:
    """Add up log p of the tokens where `loss_mask` is True, each predicted from the position before it."""
    scored = loss_mask[:, 1:]
    return _add_up(logits[:, :-1], ids[:, 1:], scored, scored.astype(jnp.float32))


def shared_length_weights(loss_mask: Bool[Array, "*B K T"], alpha: float) -> Float[Array, "*B K T"]:
    """Weigh the scored tokens of answers to one query: 1 up to the length that all K share, `alpha` beyond.

    Length-desensitised preferences (LD-DPO): a longer answer is not preferred, or rejected, for its length. Answers
    without a scored token do not count as shorter. Source: docs/method.md, eq. 81.
    """
    scored = loss_mask.at[..., 0].set(False)
    lengths = jnp.sum(scored, axis=-1)
    shared = jnp.min(jnp.where(lengths > 0, lengths, loss_mask.shape[-1]), axis=-1)
    number = jnp.cumsum(scored, axis=-1)
    return jnp.where(scored, jnp.where(number <= shared[..., None, None], 1.0, alpha), 0.0)


def projected_sequence_log_probs(
    project: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    loss_mask: Bool[Array, "B T"],
    weights: Float[Array, "B T"] | None = None,
) -> SequenceLogProbs:
    """Do the same from hidden states: the scored positions of every row come first and are projected in chunks.

    Chunks without a scored position are skipped; logits are computed again in the backward pass, so that those of a
    few positions exist at a time. `weights` multiply the tokens' log-probabilities; lengths count tokens.
    """
    weights = loss_mask.astype(jnp.float32) if weights is None else weights
    scored = jnp.roll(loss_mask, -1, axis=1).at[:, -1].set(False)
    order = jnp.argsort(~scored, axis=1, stable=True)
    batch, length = ids.shape
    places = min(_PLACES, length)
    count = -(-length // places)

    def in_chunks(x: Array) -> Array:
        x = jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)
        x = jnp.pad(x, [(0, 0), (0, count * places - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, count, places, *x.shape[2:]), 1, 0)

    def add_chunk(total: SequenceLogProbs, chunk: tuple[Array, ...]) -> tuple[SequenceLogProbs, None]:
        hidden, targets, scored, weights = chunk

        def score(hidden: Array) -> SequenceLogProbs:
            return _add_up(project(hidden), targets, scored, weights)

        def nothing(hidden: Array) -> SequenceLogProbs:
            return SequenceLogProbs(jnp.zeros(batch, jnp.float32), jnp.zeros(batch, jnp.float32))

        found = jax.lax.cond(jnp.any(scored), score, nothing, hidden)
        return jax.tree.map(jnp.add, total, found), None

    zero = jnp.zeros(batch, jnp.float32)
    targets, weights = (in_chunks(jnp.roll(each, -1, axis=1)) for each in (ids, weights))
    chunks = (in_chunks(hidden), targets, in_chunks(scored), weights)
    return jax.lax.scan(jax.checkpoint(add_chunk, prevent_cse=False), SequenceLogProbs(zero, zero), chunks)[0]


def _add_up(logits: Array, targets: Array, scored: Array, weights: Array) -> SequenceLogProbs:
    # Zeroed before: what is not scored passes on no inf or NaN, nor its gradient.
    logits = jnp.where(scored[..., None], logits.astype(jnp.float32), 0.0)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    log_probs = jnp.where(scored, picked - jax.nn.logsumexp(logits, axis=-1), 0.0)
    return SequenceLogProbs(jnp.sum(log_probs * weights, axis=1), jnp.sum(scored, axis=1, dtype=jnp.float32))
