"""Answers as targets: what the stages that read a memory have in common."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.losses.cross_entropy import TokenLoss
from rxt_jax.losses.token_log_probs import next_token_loss
from rxt_jax.model.calls import add_up_calls, join_rows
from rxt_jax.model.episode import fold_key
from rxt_jax.row_sharding import map_rows
from rxt_jax.types import Array, Interaction, Key, Metrics

__all__ = [
    "EpisodeNormalisation",
    "answer_factors",
    "answer_labels",
    "answer_metrics",
    "count_answers",
    "read_memories",
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


def count_answers(labels: Array, normalisation: EpisodeNormalisation, weights: Array | None = None) -> dict[str, Array]:
    """Count the labels `[I B T]` of an episode batch as denominators, each by its weight; micro-batches add up.

    `answer` is one number, or one per interaction where their means are joined; `balance` counts
    the decoder passes that share the router's loss.
    """
    counted = labels if weights is None else labels * weights
    per_interaction = jnp.sum(counted[..., 1:], axis=(1, 2), dtype=jnp.float32)
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


def read_memories(
    model: Any,
    memories: Array,
    interactions: Interaction,
    labels: Array,
    factors: tuple[Array, Array],
    key: Key | None,
    *,
    memory_mask: Array | None = None,
    interactions_per_call: int = 1,
    start: int | Array = 0,
) -> tuple[Array, TokenLoss, Array]:
    """Score all interactions: their loss, sums over tokens `[I]`, and the routers' balance losses `[I]`.

    `memories` is what each interaction reads, `[I L B S D]`, or what all of them read, `[L B S D]`, as far as
    `memory_mask[I B S]` lets them. `factors` are those of `answer_factors`. About `interactions_per_call` interactions
    are decoded in one call, and the gradient of a call is computed with it. Calls without a label (filler, a first
    interaction that is not trained) do not run. The gradient goes through the loss alone. `start` is the number of
    interactions that the episode already had.
    """
    # Filler tokens are no tokens: a router's balance counts all it is shown.
    token_mask = interactions.token_mask & interactions.valid[..., None]
    # The first token of a row is predicted by none.
    labels = labels.at[..., 0].set(False)
    is_shared = memories.ndim == 4
    layout, parameters = nnx.split(model)
    # Rows come second in all of them.
    rows = (
        model.embed(interactions.ids),
        memories if is_shared else jnp.swapaxes(memories, 1, 2),
        (interactions.ids, token_mask, labels, interactions.loss_weights, memory_mask),
    )

    def read(rows: tuple, common: tuple, over: tuple[str, ...]) -> tuple[tuple[()], tuple[Array, TokenLoss, Array]]:
        embedded, memories, fixed = rows
        parameters, scored, factors, key, number = common
        value, (answer, balance) = add_up_calls(
            _reader(nnx.merge(layout, parameters), memories if is_shared else None, key, number, over),
            (embedded, None if is_shared else jnp.swapaxes(memories, 1, 2)),
            (*fixed, scored, *factors),
            scored,
            most=interactions_per_call,
        )
        sums = (value, answer)
        value, answer = jax.lax.psum(sums, over) if over else sums
        return (), (value, answer, balance)

    common = (parameters, jnp.any(labels, axis=(1, 2)), factors, key, jnp.int32(start))
    if key is not None and model.has_dropout:  # which is drawn for all rows together
        return read(rows, common, ())[1]
    return map_rows(read, rows, common, row_axis=1, data_alone=True)[1]


def _reader(
    model: Any, shared: Array | None, key: Key | None, start: Array, over: tuple[str, ...]
) -> Callable[[tuple, tuple, Array], tuple[Array, tuple[TokenLoss, Array]]]:
    """Make the function that scores the interactions of a call.

    Where a device has rows of its own it gives them an equal share of what the whole batch costs, so that the shares
    of all devices add up; `over` names the axes of the mesh.
    """

    def loss(given: tuple, fixed: tuple, number: Array) -> tuple[Array, tuple[TokenLoss, Array]]:
        embedded, own = given
        ids, token_mask, labels, token_weights, mask, scored, answer_factor, balance_factor = fixed
        together, rows, length = ids.shape
        # The c interactions of a conversation are neighbours: where memory is shared they read the same.
        memory = shared if own is None else jax.vmap(join_rows, in_axes=1)(own)
        hidden, balance = model.decode_hidden(
            join_rows(embedded),
            join_rows(token_mask),
            memory,
            memory_mask=None if mask is None else join_rows(mask),
            balance_groups=together,
            key=fold_key(fold_key(key, start + number), 3),
        )
        weights = jnp.broadcast_to(answer_factor[:, None, None], ids.shape)
        if token_weights is not None:
            weights = weights * token_weights
        value, found = next_token_loss(model.logits, hidden, join_rows(ids), join_rows(labels), join_rows(weights))

        def total(tokens: Array) -> Array:
            return jnp.sum(tokens.reshape(rows, together, length), axis=(0, 2), dtype=jnp.float32)

        answer = TokenLoss(
            -total(found.log_probs), jnp.sum(labels, axis=(1, 2), dtype=jnp.float32), total(found.correct)
        )
        balance = jnp.where(scored, balance, 0.0).astype(jnp.float32)
        value = value + jnp.sum(balance_factor * balance)
        return (value / jax.lax.psum(1, over) if over else value), (answer, balance)

    return loss


def answer_metrics(answer: TokenLoss, balance: Array) -> Metrics:
    """Name the sums of all interactions, given `[I]` each."""
    count = jnp.sum(answer.count)
    return {
        "answer/loss": (jnp.sum(answer.loss), count),
        "answer/accuracy": (jnp.sum(answer.correct), count),
        "router/balance": (jnp.sum(balance), jnp.sum(answer.count > 0, dtype=jnp.float32)),
    }
