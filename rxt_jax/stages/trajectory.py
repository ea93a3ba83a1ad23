"""What a rollout leaves: conversations as the policy led them, with everything that learning from them needs.

Scoring a trajectory again walks the same chain: interaction i − 1 is written as it was written then, and the policy
reads memory for the very tokens that it drew. With unchanged parameters it finds the log-probabilities of then.
Source: docs/method.md §19.7.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.losses.memory_policy import AnswerBefore, AnswerScores, score_answers_drawn
from rxt_jax.model.episode import real_before
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.ops.columns import take_columns
from rxt_jax.ops.joining import join_masks, join_parts
from rxt_jax.stages.memory_writing import WriteReport, write_previous
from rxt_jax.types import Array, Interaction, Key

__all__ = [
    "Answered",
    "Step",
    "Trajectory",
    "critic_text",
    "first_memory",
    "read_and_score",
    "split_steps",
]


class Trajectory(NamedTuple):
    """Episodes of I interactions; axis 1 of every leaf counts rows, so that it is a batch like any other.

    `ids` are queries with the answers that the policy gave (interaction 0: with the data's), `written_ids` what went
    into memory. A query has `query_length` tokens; action j of its answer is at place `start + j` of the row.
    `behaviour_log_probs` are those of the distribution that was drawn from, `old_log_probs` those of the policy when
    it drew: the same unless a temperature or a filter was at work. `memory` is the one that the episode began with,
    `is_fresh` whether that was the model's initial one, `last_memory` the one that it ended with.
    """

    ids: Array  # int32 [I B T]
    token_mask: Array  # bool [I B T]
    valid: Array  # bool [I B]
    answered: Array  # bool [I B], has an answer to learn from
    done: Array  # bool [I B], the last interaction of its episode
    query_length: Array  # int32 [I B]
    start: Array  # int32 [I B]
    actions: Array  # int32 [I B A]
    action_mask: Array  # bool [I B A]
    ended: Array  # bool [I B], the answer has its end token
    behaviour_log_probs: Array  # float32 [I B A]
    old_log_probs: Array  # float32 [I B A]
    reference_log_probs: Array  # float32 [I B A]
    written_ids: Array  # int32 [I B T]
    written_mask: Array  # bool [I B T]
    rewards: Array  # float32 [I B]
    values: Array  # float32 [I B]
    advantages: Array  # float32 [I B]
    returns: Array  # float32 [I B]
    components: dict[str, Array]  # float32 [I B] each
    memory: Array  # float32 [L B S D]
    last_memory: Array  # float32 [L B S D]
    is_fresh: Array  # bool [1 B]


class Step(NamedTuple):
    """One interaction of a trajectory for the episode engine, with the rows before it. `number` is its place,
    `length` and `length_before` how many tokens were drawn for its answer and for the one before it."""

    number: Array
    length: Array
    length_before: Array
    interaction: Interaction
    first_ids: Array
    first_mask: Array
    query_length: Array
    start: Array
    actions: Array
    action_mask: Array
    answered: Array
    old_log_probs: Array
    behaviour_log_probs: Array
    reference_log_probs: Array
    values: Array
    advantages: Array
    returns: Array

    @property
    def valid(self) -> Array:
        return self.interaction.valid


class Answered(NamedTuple):
    """What reading memory for one interaction gives: memory, the answer's scores, and what the write before did."""

    memory: Array
    scores: AnswerScores
    report: WriteReport
    balance: Array


def split_steps(given: Trajectory) -> Step:
    """Give every interaction of a trajectory the row that is written before it, `[I …]`."""
    count = len(given.valid)
    lengths = jnp.sum(given.action_mask & given.answered[..., None], axis=-1)
    # As in `with_previous`, filler in between is passed over.
    previous_ids, previous_mask, previous_valid, previous_lengths = real_before(
        (given.written_ids, given.written_mask, given.valid, lengths), given.valid
    )
    interaction = Interaction(
        ids=given.ids,
        token_mask=given.token_mask,
        loss_mask=jnp.zeros_like(given.token_mask),
        valid=given.valid,
        previous_ids=previous_ids,
        previous_token_mask=previous_mask,
        previous_valid=previous_valid,
    )
    first_ids, first_mask = (jnp.broadcast_to(rows[:1], rows.shape) for rows in (given.written_ids, given.written_mask))
    return Step(
        jnp.arange(count),
        lengths,
        previous_lengths,
        interaction,
        first_ids,
        first_mask,
        given.query_length,
        given.start,
        given.actions,
        given.action_mask,
        given.answered,
        given.old_log_probs,
        given.behaviour_log_probs,
        given.reference_log_probs,
        given.values,
        given.advantages,
        given.returns,
    )


def first_memory(model: Any, given: Trajectory, key: Key | None = None) -> Array:
    """Return the memory that the episodes began with; where that is a parameter, it is the parameter, with gradient."""
    if model.config.initial_memory != "learned":
        return given.memory
    own = beginning_memory(model, given.memory.shape[1], key).astype(given.memory.dtype)
    return jnp.where(given.is_fresh[0][None, :, None, None], own, given.memory)


def critic_text(step: Step, width: int, *, with_first: bool = False) -> tuple[Array, Array]:
    """Write what the critic reads: (first interaction,) interaction before, query, cut at `width` on the right."""
    places = jnp.arange(step.interaction.ids.shape[-1])
    query_mask = step.interaction.token_mask & (places < step.query_length[:, None])
    parts = [step.interaction.previous_ids, step.interaction.ids]
    masks = [step.interaction.previous_token_mask, query_mask]
    if with_first:
        # The first interaction is the one before at number 1: it is not read twice.
        parts.insert(0, step.first_ids)
        masks.insert(0, step.first_mask & (step.number > 1))
    return join_parts(parts, masks, width), join_masks(masks, width)


def read_and_score(
    model: Any,
    memory: Array,
    step: Step,
    *,
    before: AnswerBefore | None = None,
    keep_distribution: bool = False,
    clamp: float | None = None,
    gradient: bool = True,
    balanced: bool = False,
) -> Answered:
    """Write the interaction before, then score the actions of this one.

    Without randomness: what is scored has to be what was drawn. Where no row has an answer the decoder does not run.
    """
    memory, report = write_previous(model, memory, step.interaction, None, gradient=gradient, balanced=balanced)
    rows, length = step.actions.shape
    vocabulary = model.config.vocab_size

    def read(memory: Array) -> tuple[AnswerScores, Array]:
        token_mask = step.interaction.token_mask & step.answered[:, None]
        hidden, balance = model.decode_hidden(step.interaction.ids, token_mask, memory)
        # The token at place p is predicted by the state at p − 1.
        places = jnp.clip(step.start[:, None] - 1 + jnp.arange(length), 0, hidden.shape[1] - 1)
        hidden = take_columns(hidden, places)
        scores = score_answers_drawn(
            model.logits,
            hidden,
            step.actions,
            step.action_mask & step.answered[:, None],
            before=before,
            keep_distribution=keep_distribution,
            clamp=clamp,
        )
        return scores, jnp.float32(balance)

    def skip(memory: Array) -> tuple[AnswerScores, Array]:
        zero = jnp.zeros((rows, length), jnp.float32)
        uniform = jnp.full((rows, length, vocabulary), -jnp.log(float(vocabulary)), jnp.float32)
        return AnswerScores(zero, zero, zero, uniform if keep_distribution else None), jnp.float32(0.0)

    scores, balance = jax.lax.cond(jnp.any(step.answered), read, skip, memory)
    return Answered(memory, scores, report, balance)
