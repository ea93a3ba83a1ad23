"""Several answers to the same query, side by side over one memory: how preference stages and measurements score them.

    memories of an episode [I L B S D], answers [I B k T] ──▶ log-probabilities [I B k]

Source: docs/method.md §16.1 and §16.2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.losses.sequence_log_probs import SequenceLogProbs, projected_sequence_log_probs, shared_length_weights
from rxt_jax.model.episode import fold_key, with_previous
from rxt_jax.nn.remat import rematerialised
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key, PreferenceBatch

__all__ = ["Answers", "answers_of", "score_answers"]


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


def score_answers(
    model: Any,
    memories: Array,
    answers: Answers,
    key: Key | None = None,
    *,
    interactions_per_call: int = 2,
    remat: str = "full",
    length_desensitisation: float | None = None,
) -> tuple[SequenceLogProbs, Array]:
    """Read memories `[I L B S D]` with all answers: log-probabilities `[I B k]`, and the routers' loss.

    The answers of `interactions_per_call` interactions of every row are read in one call of the decoder. In every row
    the interactions that have a pair come first: then calls that no row needs are skipped. Interactions without
    a pair get zeros. `length_desensitisation`: what tokens beyond the length that chosen and rejected answer
    share count, see `shared_length_weights`.
    """
    count, rows, kinds, length = answers.ids.shape
    order = jnp.argsort(~answers.paired, axis=0, stable=True)
    together = min(interactions_per_call, count)
    calls = -(-count // together)
    weights = answers.loss_mask.astype(jnp.float32)
    if length_desensitisation is not None:
        pair = shared_length_weights(answers.loss_mask[:, :, :2], length_desensitisation)
        weights = jnp.concatenate([pair, weights[:, :, 2:]], axis=2)

    def arrange(leaf: Array, batch_axis: int = 1) -> Array:
        shape = [1] * leaf.ndim
        shape[0], shape[batch_axis] = order.shape
        leaf = jnp.take_along_axis(leaf, order.reshape(shape), axis=0)
        leaf = jnp.pad(leaf, [(0, calls * together - count), *[(0, 0)] * (leaf.ndim - 1)])
        return leaf.reshape(calls, together, *leaf.shape[1:])

    def call(carry: Array, inputs: tuple) -> tuple[Array, tuple[SequenceLogProbs, Array]]:
        memories, ids, token_mask, loss_mask, weights, paired, number = inputs

        def read(memories: Array) -> tuple[SequenceLogProbs, Array]:
            # Answers to one query are neighbours, which share a memory. Rows lead: those of a device stay there.
            def joined(leaf: Array) -> Array:
                return leaf.swapaxes(0, 1).reshape(rows * together * kinds, length)

            memory = jnp.moveaxis(memories, 0, 2).reshape(memories.shape[1], rows * together, *memories.shape[3:])
            hidden, balance = model.decode_hidden(joined(ids), joined(token_mask), memory, key=fold_key(key, number))
            found = projected_sequence_log_probs(model.logits, hidden, joined(ids), joined(loss_mask), joined(weights))
            totals, lengths = (leaf.reshape(rows, together, kinds).swapaxes(0, 1) for leaf in found)
            return SequenceLogProbs(totals, lengths), jnp.float32(balance)

        def skip(memories: Array) -> tuple[SequenceLogProbs, Array]:
            zero = jnp.zeros((together, rows, kinds), jnp.float32)
            return SequenceLogProbs(zero, zero), jnp.float32(0.0)

        return carry, jax.lax.cond(jnp.any(paired), read, skip, memories)

    rest = (answers.ids, answers.token_mask, answers.loss_mask, weights, answers.paired)
    inputs = (arrange(memories, batch_axis=2), *(arrange(leaf) for leaf in rest), jnp.arange(calls))
    _, (found, balances) = jax.lax.scan(rematerialised(call, remat), jnp.float32(0.0), inputs)
    back = jnp.argsort(order, axis=0)[..., None]

    def put_back(leaf: Array) -> Array:
        leaf = leaf.reshape(calls * together, *leaf.shape[2:])[:count]
        return jnp.take_along_axis(leaf, back, axis=0)

    return jax.tree.map(put_back, found), jnp.sum(balances) * together


def _has_answer(batch: EpisodeBatch) -> Array:
    """Tell rows whose answer survived the cut."""
    return jnp.any(batch.loss_mask[..., 1:], axis=-1)
