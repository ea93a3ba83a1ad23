"""Cross-entropy as sums and counts, so that accumulation, devices and batches can be joined
exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["TokenLoss", "answer_cross_entropy", "token_cross_entropy"]


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
    A target that ties with the largest logit counts as correct. Source: supervised spec §5.3.
    """
    logits = logits.astype(jnp.float32)
    # Targets outside the vocabulary only occur where nothing is scored; clip keeps the gather in
    # range.
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    largest = jnp.max(jax.lax.stop_gradient(logits), axis=-1)
    # `where` instead of a product: a position that is not scored must not pass on an inf or NaN.
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

    The first token of a row is never a target. Source: supervised spec §5.3 and §3.9.
    """
    return token_cross_entropy(logits[:, :-1], ids[:, 1:], loss_mask[:, 1:])
