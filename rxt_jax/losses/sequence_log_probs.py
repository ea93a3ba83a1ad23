"""Log-probabilities of whole answers, without the logits of a whole row. Source: docs/method.md §16.1."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.losses.token_log_probs import next_token_log_probs, token_log_probs

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
    return _total(token_log_probs(logits[:, :-1], ids[:, 1:], scored).log_probs, scored)


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
    project: Callable[[Float[Array, "G C D"]], Float[Array, "G C V"]],
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    loss_mask: Bool[Array, "B T"],
    weights: Float[Array, "B T"] | None = None,
) -> SequenceLogProbs:
    """Do the same from hidden states, without the logits of all positions.

    `weights` multiply the tokens' log-probabilities; lengths count tokens.
    """
    log_probs = next_token_log_probs(project, hidden, ids, loss_mask).log_probs
    log_probs = log_probs if weights is None else log_probs * weights
    return _total(log_probs[:, 1:], loss_mask[:, 1:])


def _total(log_probs: Float[Array, "B T"], scored: Bool[Array, "B T"]) -> SequenceLogProbs:
    return SequenceLogProbs(jnp.sum(log_probs, axis=1), jnp.sum(scored, axis=1, dtype=jnp.float32))
