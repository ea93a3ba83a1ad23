"""Answers as targets: what the stages that read a memory have in common."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from rxt_jax.losses.cross_entropy import TokenLoss, projected_answer_cross_entropy
from rxt_jax.types import Array, Interaction, Key, Metrics

__all__ = [
    "EpisodeNormalisation",
    "answer_factors",
    "answer_labels",
    "answer_metrics",
    "count_answers",
    "read_memory",
]

EpisodeNormalisation = Literal["tokens", "interaction_mean", "interaction_sum"]
"""How the losses of interactions join: per labelled token of the episode batch, or as the mean
(published) or the sum (paper) of the mean losses of the interactions."""


def answer_labels(interaction: Interaction, train_first_interaction: bool = True) -> Array:
    """Say which tokens are targets: those of real interactions, on request not of the first one."""
    scored = interaction.valid
    if not train_first_interaction:
        scored = scored & interaction.previous_valid
    return interaction.loss_mask & scored[..., None]


def count_answers(labels: Array, normalisation: EpisodeNormalisation) -> dict[str, Array]:
    """Count the labels `[I B T]` of an episode batch as denominators; micro-batches add up.

    `answer` is one number, or one per interaction where their means are joined; `balance` counts
    the decoder passes that share the router's loss.
    """
    per_interaction = jnp.sum(labels[..., 1:], axis=(1, 2), dtype=jnp.float32)
    scored = jnp.sum(per_interaction > 0, dtype=jnp.float32)
    if normalisation == "tokens":
        return {"answer": jnp.sum(per_interaction), "balance": scored}
    balance = jnp.float32(1.0) if normalisation == "interaction_sum" else scored
    return {"answer": per_interaction, "balance": balance}


def answer_factors(
    counts: dict[str, Array],
    normalisation: EpisodeNormalisation,
    balance_loss_scale: float,
    num_interactions: int,
) -> tuple[Array, Array]:
    """Turn counts into the factors `[I]` of every interaction's loss sum and of its balance
    loss."""
    factors = jnp.broadcast_to(1.0 / jnp.maximum(counts["answer"], 1.0), num_interactions)
    if normalisation == "interaction_mean":
        factors = factors / jnp.maximum(jnp.sum(counts["answer"] > 0), 1)
    balance = balance_loss_scale / jnp.maximum(counts["balance"], 1.0)
    return factors, jnp.broadcast_to(balance, num_interactions)


def read_memory(
    model: Any,
    memory: Array,
    interaction: Interaction,
    labels: Array,
    key: Key | None,
    *,
    memory_mask: Array | None = None,
) -> tuple[TokenLoss, Array]:
    """Score an interaction against memory: token sums, and the router's balance loss.

    Where no row has a label (filler, a first interaction that is not trained) the decoder does
    not run.
    """

    def read(memory: Array) -> tuple[TokenLoss, Array]:
        # Filler tokens are no tokens: a router's balance counts all it is shown.
        token_mask = interaction.token_mask & interaction.valid[..., None]
        hidden, balance = model.decode_hidden(interaction.ids, token_mask, memory, memory_mask=memory_mask, key=key)
        answer = projected_answer_cross_entropy(model.logits, hidden, interaction.ids, labels)
        return answer, jnp.float32(balance)

    def skip(memory: Array) -> tuple[TokenLoss, Array]:
        zero = jnp.float32(0.0)
        return TokenLoss(zero, zero, zero), zero

    return jax.lax.cond(jnp.any(labels[:, 1:]), read, skip, memory)


def answer_metrics(answer: TokenLoss, balance: Array) -> Metrics:
    """Name the sums of one interaction."""
    return {
        "answer/loss": (answer.loss, answer.count),
        "answer/accuracy": (answer.correct, answer.count),
        "router/balance": (balance, (answer.count > 0).astype(jnp.float32)),
    }
