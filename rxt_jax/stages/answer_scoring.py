"""Several answers to the same query, side by side over one memory: how preference stages and measurements score them.

    memories of an episode [I L B S D], answers [I B k T] ──▶ log-probabilities [I B k]

Source: docs/method.md §16.1 and §16.2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.losses.sequence_log_probs import SequenceLogProbs, projected_sequence_log_probs, shared_length_weights
from rxt_jax.model.calls import add_up_calls, join_rows, split_rows
from rxt_jax.model.episode import fold_key, with_previous
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key, PreferenceBatch

__all__ = ["Answers", "CallLoss", "Scored", "answers_of", "score_answers"]


class Answers(NamedTuple):
    """Interactions of an episode for the engine: what is written before each, and the k answers to score."""

    interaction: Interaction
    ids: Array  # [I B k T], chosen, rejected, and neutral if wanted
    token_mask: Array  # [I B k T]
    loss_mask: Array  # [I B k T]
    paired: Array  # [I B], chosen and rejected are there
    anchored: Array  # [I B], a neutral answer is there as well
    reference: Array | None  # [I B k], log-probabilities computed beforehand

    @property
    def valid(self) -> Array:
        return self.interaction.valid


def answers_of(batch: PreferenceBatch, *, neutral: bool = False) -> Answers:
    """Put the answers side by side. An answer that the cut left without a token is none."""
    batch = jax.tree.map(jnp.asarray, batch)
    answers = (batch.chosen, batch.rejected, batch.neutral)[: 3 if neutral else 2]

    def side_by_side(name: str) -> Array:
        return jnp.stack([getattr(each, name) for each in answers], axis=2)

    masks = jnp.stack([each.valid for each in answers], axis=2)[..., None]
    paired = batch.chosen.valid & batch.rejected.valid & _has_answer(batch.chosen) & _has_answer(batch.rejected)
    return Answers(
        with_previous(batch.chosen),
        side_by_side("ids"),
        side_by_side("token_mask") & masks,
        side_by_side("loss_mask") & masks & paired[..., None, None],
        paired,
        paired & batch.neutral.valid & _has_answer(batch.neutral),
        None if batch.reference is None else batch.reference[..., : len(answers)],
    )


class Scored(NamedTuple):
    """What reading all answers gives: the loss of all calls, log-probabilities `[I B k]`, and the routers' loss."""

    loss: Array
    answers: SequenceLogProbs
    balance: Array


CallLoss = Callable[[SequenceLogProbs, Array, Any], Array]
"""`(log-probabilities [c B k], routers' loss, rows [c B ...]) -> loss` of a call."""


def score_answers(
    model: Any,
    memories: Array,
    answers: Answers,
    key: Key | None = None,
    *,
    loss: CallLoss | None = None,
    rows: Any = None,
    interactions_per_call: int = 2,
    length_desensitisation: float | None = None,
) -> Scored:
    """Read memories `[I L B S D]` with all answers.

    The answers of `interactions_per_call` interactions of every row are read in one call of the decoder. In every row
    the interactions that have a pair come first: then calls that no row needs are skipped. Interactions without
    a pair get zeros. `length_desensitisation`: what tokens beyond the length that chosen and rejected answer
    share count, see `shared_length_weights`. `loss` is that of a call, and what it gives adds up; `rows`, a pytree with
    leading `[I B]`, is what else it reads of every interaction. The gradient of a call is computed with it and goes
    through the loss alone.
    """
    order = jnp.argsort(~answers.paired, axis=0, stable=True)
    weights = answers.loss_mask.astype(jnp.float32)
    if length_desensitisation is not None:
        pair = shared_length_weights(answers.loss_mask[:, :, :2], length_desensitisation)
        weights = jnp.concatenate([pair, weights[:, :, 2:]], axis=2)

    def arrange(leaf: Array, batch_axis: int = 1) -> Array:
        shape = [1] * leaf.ndim
        shape[0], shape[batch_axis] = order.shape
        return jnp.take_along_axis(leaf, order.reshape(shape), axis=0)

    def call(given: tuple, fixed: tuple, number: Array) -> tuple[Array, tuple[SequenceLogProbs, Array]]:
        embedded, memories = given
        ids, token_mask, loss_mask, weights, rows = fixed
        together, _, kinds, length = ids.shape

        def side_by_side(leaf: Array) -> Array:
            # Interactions of a conversation and their k answers are neighbours; k of them share a memory.
            return join_rows(leaf).reshape(-1, length, *leaf.shape[4:])

        hidden, balance = model.decode_hidden(
            side_by_side(embedded),
            side_by_side(token_mask),
            jax.vmap(join_rows, in_axes=1)(memories),
            key=fold_key(key, number // together),
        )
        found = projected_sequence_log_probs(
            model.logits, hidden, side_by_side(ids), side_by_side(loss_mask), side_by_side(weights)
        )
        found = jax.tree.map(lambda leaf: split_rows(leaf.reshape(-1, kinds), together), found)
        balance = jnp.float32(balance) * together
        value = jnp.float32(0.0) if loss is None else loss(found, balance, rows)
        # A number per call, as one of its first interaction.
        return value, (found, jnp.zeros(together).at[0].set(balance))

    ids, token_mask, loss_mask, weights, paired, rows = jax.tree.map(
        arrange, (answers.ids, answers.token_mask, answers.loss_mask, weights, answers.paired, rows)
    )
    total, (found, balances) = add_up_calls(
        call,
        (model.embed(ids), arrange(memories, batch_axis=2)),
        (ids, token_mask, loss_mask, weights, rows),
        jnp.any(paired, axis=1),
        most=interactions_per_call,
    )
    back = jnp.argsort(order, axis=0)[..., None]
    found = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, back, axis=0), found)
    return Scored(total, found, jnp.sum(balances))


def _has_answer(batch: EpisodeBatch) -> Array:
    """Tell rows whose answer survived the cut."""
    return jnp.any(batch.loss_mask[..., 1:], axis=-1)
