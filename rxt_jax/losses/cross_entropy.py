"""Cross-entropy as sums and counts, so that accumulation, devices and batches can be joined exactly."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.losses.token_log_probs import (
    Project,
    TokenLogProbs,
    next_token_loss,
    projected_token_loss,
    token_log_probs,
)

__all__ = [
    "TokenLoss",
    "answer_cross_entropy",
    "projected_answer_cross_entropy",
    "projected_cross_entropy",
    "token_cross_entropy",
]


class TokenLoss(NamedTuple):
    """Sums over the scored positions; `loss / count` is the mean, `correct / count` the accuracy."""

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
    return _total(token_log_probs(logits, targets, mask), mask)


def answer_cross_entropy(
    logits: Float[Array, "B T V"], ids: Int[Array, "B T"], loss_mask: Bool[Array, "B T"]
) -> TokenLoss:
    """Score the next token: position t − 1 predicts the token at t wherever `loss_mask[t]` is True.

    The first token of a row is never a target. Source: docs/method.md §13.3 and eq. 63.
    """
    return token_cross_entropy(logits[:, :-1], ids[:, 1:], loss_mask[:, 1:])


def projected_cross_entropy(
    project: Project,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> TokenLoss:
    """Score `project(hidden)` like `token_cross_entropy`, without the logits of all positions."""
    loss, found = projected_token_loss(project, hidden, targets, mask, jnp.ones(mask.shape))
    return _total(found, mask)._replace(loss=loss)


def projected_answer_cross_entropy(
    project: Project,
    hidden: Float[Array, "B T D"],
    ids: Int[Array, "B T"],
    loss_mask: Bool[Array, "B T"],
) -> TokenLoss:
    """Score the next token like `answer_cross_entropy`, without the logits of all positions."""
    scored = jnp.asarray(loss_mask).at[:, 0].set(False)
    loss, found = next_token_loss(project, hidden, ids, scored, jnp.ones(scored.shape))
    return _total(found, scored)._replace(loss=loss)


def _total(found: TokenLogProbs, mask: Bool[Array, "B T"]) -> TokenLoss:
    return TokenLoss(
        loss=-jnp.sum(found.log_probs),
        count=jnp.sum(mask, dtype=jnp.float32),
        correct=jnp.sum(found.correct, dtype=jnp.float32),
    )
