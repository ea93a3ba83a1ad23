"""Rollouts: the environment is the conversation, and a whole episode of it is one compiled program.

    memory ─▶ answer ─▶ reward ─▶ write ─▶ next interaction        interaction 0 is written, not answered

Memory is hidden: it is neither in the state nor in the reward. Source: docs/method.md §19.7.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from rxt_jax.data.special_tokens import ABSENT
from rxt_jax.data.template import OUTPUT_BLOCKS
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import SamplingConfig, make_rules
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.ops.joining import join_masks, join_parts
from rxt_jax.rewards import Reward, RewardContext, RewardInput, Tokens
from rxt_jax.stages.episode_strategy import EpisodeStrategy, StepPlan
from rxt_jax.stages.memory_writing import write_previous
from rxt_jax.stages.reward_modeling import require_reward_model
from rxt_jax.stages.rollout_batches import RolloutBatch, needs_score
from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key

__all__ = ["Continuation", "GroupKind", "RolloutConfig", "SpecialIds", "collect", "special_ids", "tile_rows"]

GroupKind = Literal["episode", "branch"]
"""Whose answers are compared: those of whole episodes led G times, whose memories differ, or G answers from one
memory, of which one goes into the memory of all."""

Continuation = Literal["generated", "data", "best"]
"""What goes into memory: the answer itself (of a branch group: its first), the data's answer (teacher forcing), or of
a branch group the answer with the largest reward."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How conversations are led."""

    strategy: EpisodeStrategy = field(default_factory=EpisodeStrategy)
    """What each answer is held against."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=1.0))
    """How tokens are drawn."""
    answer_length: int | None = None
    """How many tokens an answer may have, None for as many as its row has room for."""
    continuation: Continuation = "generated"
    """What is written into memory."""
    group_size: int = 1
    """Answers that are drawn to every query."""
    group: GroupKind = "episode"
    """From what these are drawn."""
    soft_warmup: bool = False
    """Whether interaction 0 is written once more beforehand."""

    def __post_init__(self) -> None:
        for name in ("answer_length", "group_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name, known in (("continuation", Continuation), ("group", GroupKind)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}.")
        if self.continuation == "best" and (self.group != "branch" or self.group_size < 2):
            raise ValueError(
                "continuation 'best' chooses among answers from one memory: set group='branch' and a size."
            )

    @property
    def rows_per_memory(self) -> int:
        """How many neighbouring rows answer from one memory."""
        return self.group_size if self.group == "branch" else 1

    @property
    def is_raw(self) -> bool:
        """Whether tokens are drawn from the model's own distribution."""
        return self.sampling == SamplingConfig(temperature=1.0)


class SpecialIds(NamedTuple):
    """The control tokens that a rollout has to know: what ends an answer, what opens one, and padding."""

    end: int
    pad: int
    openings: tuple[int, ...]


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """List the control tokens of a tokenizer that a rollout has to know."""
    special = tokenizer.special
    openings = tuple(getattr(special, name) for name in OUTPUT_BLOCKS)
    return SpecialIds(special.eos, special.pad, tuple(each for each in openings if each != ABSENT))


class _Progress(NamedTuple):
    """What is carried from interaction to interaction: memory, that of the reward model where there is one, the rows
    that were written, the reward's own carry."""

    memory: Array
    judge_memory: Array | None
    written_ids: Array  # [I B T]
    written_mask: Array
    reward: Any


def tile_rows(batch: Any, size: int) -> Any:
    """Repeat every row of a batch `size` times, one behind the other."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, size, axis=1), batch) if size > 1 else batch


def collect(
    model: Any,
    batch: EpisodeBatch | RolloutBatch,
    memory: Array,
    is_fresh: Array,
    key: Key,
    config: RolloutConfig,
    reward: Reward,
    context: RewardContext,
    special: SpecialIds,
) -> Trajectory:
    """Lead the conversations of a batch from `memory [L B S D]`; rows are tiled already where there are groups.

    The first token of an answer part, which says which block comes, is the data's and not an action. Log-probabilities
    of the policy are those of the generation; the reference's, values and advantages are 0. To be called inside
    `jax.jit`. An episode needs two interactions at least.
    """
    count, rows, width = batch.ids.shape
    if count < 2:
        raise ValueError(
            f"a rollout writes interaction 0 and answers the others, so episodes need 2 interactions, got {count}. "
            f"Raise the data's max_interactions."
        )
    batch = jax.tree.map(jnp.asarray, batch)
    batch = batch._replace(token_mask=batch.token_mask & batch.valid[..., None])
    # It reads this conversation alone, whatever the policy's memory began with.
    judge = require_reward_model(model) if needs_score(reward) else None
    length = min(config.answer_length or width, width)
    done = batch.valid & ~jnp.concatenate([batch.valid[1:], jnp.zeros_like(batch.valid[:1])])
    starts, openings = _starts(batch, special)
    carry = _Progress(
        _warm_up(model, memory, is_fresh, batch) if config.soft_warmup else memory,
        None if judge is None else beginning_memory(judge, rows, None),
        batch.ids.at[1:].set(special.pad),
        batch.token_mask.at[1:].set(False),
        reward.first_carry(rows, context),
    )
    first_memory = carry.memory

    def left_out(row: Any) -> dict[str, Array]:
        unknown = getattr(row, "left_out", None)
        return {} if unknown is None else {"facts/left_out": unknown}

    def step(carry: _Progress, number: Array) -> tuple[_Progress, dict[str, Any]]:
        row = jax.tree.map(lambda leaf: leaf[number], batch)
        memory = _write(model, carry.memory, carry, number, batch.valid)
        judge_memory, score = carry.judge_memory, None
        if judge is not None:
            judge_memory = _write(judge, judge_memory, carry, number, batch.valid)
        opening, begin = openings[number], starts[number]
        places = jnp.arange(width)
        prompt_mask = row.token_mask & (places < begin[:, None])
        # A prompt that fills its row leaves no answer, and a row without an answer in the data asks for none.
        answered = row.valid & (begin > 0) & (begin < width) & jnp.any(row.loss_mask, axis=-1)
        rules = make_rules(rows, jax.random.fold_in(key, number), sampling=config.sampling, limit=length)
        rules = rules._replace(limit=jnp.where(answered, rules.limit, 0))
        made = generate(
            model,
            memory,
            jnp.where(prompt_mask, row.ids, special.pad),
            prompt_mask,
            rules,
            max_new_tokens=length,
            end_id=special.end,
            pad_id=special.pad,
            width=width,
        )
        masks = (prompt_mask, made.mask)
        ids, mask = join_parts((row.ids, made.ids), masks, width, special.pad), join_masks(masks, width)
        if judge is not None:
            score = judge(ids, mask, judge_memory)
        plan = config.strategy.step(number, done[number])
        found = _reward(reward, context, config, plan, carry, number, row, made, opening, begin, answered, score)
        written_ids, written_mask = (row.ids, row.token_mask) if config.continuation == "data" else (ids, mask)
        if config.group == "branch" and config.group_size > 1:
            # An answer whose reward could not be told is never the best one.
            worth = jnp.where(found.counted | ~plan.is_rewarded, found.total, -jnp.inf)
            written_ids, written_mask = _choose(config, written_ids, written_mask, worth)
        kept = _Progress(
            memory,
            judge_memory,
            carry.written_ids.at[number].set(written_ids),
            carry.written_mask.at[number].set(written_mask & row.valid[:, None]),
            found.carry,
        )
        # Of a reward that could not be told nothing is learnt; an answer that earns none may lead to one that does.
        learnable = answered & jnp.any(made.mask, axis=-1) & (found.counted | ~plan.is_rewarded)
        return kept, {
            "ids": ids,
            "token_mask": mask & row.valid[:, None],
            "answered": learnable,
            "actions": made.ids,
            "action_mask": made.mask,
            "ended": jnp.any(made.mask & (made.ids == special.end), axis=-1),
            "behaviour_log_probs": made.log_probs,
            "old_log_probs": made.raw_log_probs,
            "rewards": jnp.where(learnable, found.total, 0.0),
            "components": found.components | left_out(row),
        }

    carry, found = jax.lax.scan(step, carry, jnp.arange(1, count))

    def with_first(leaf: Array, first: Array | None = None) -> Array:
        return jnp.concatenate([jnp.zeros_like(leaf[:1]) if first is None else first, leaf])

    firsts = {"ids": batch.ids[:1], "token_mask": batch.token_mask[:1]}
    components = found.pop("components")
    nothing = jnp.zeros((count, rows), jnp.float32)
    leaves = {name: with_first(leaf, firsts.get(name)) for name, leaf in found.items()}
    return Trajectory(
        **leaves,
        valid=batch.valid,
        done=done,
        query_length=starts - openings,
        start=starts,
        reference_log_probs=jnp.zeros_like(leaves["old_log_probs"]),
        written_ids=carry.written_ids,
        written_mask=carry.written_mask,
        values=nothing,
        advantages=nothing,
        returns=nothing,
        components={name: with_first(leaf) for name, leaf in components.items()},
        memory=first_memory,
        last_memory=carry.memory,
        is_fresh=(jnp.asarray(is_fresh) & (not config.soft_warmup))[None],
    )


def _starts(batch: Any, special: SpecialIds) -> tuple[Array, Array]:
    """Find where the drawn part of every answer begins, `[I B]`, and whether an opening token stands before it.

    The data's first target is the opening token itself, or the token behind it where control tokens are no targets.
    """
    first = jnp.argmax(batch.loss_mask, axis=-1)
    token = jnp.take_along_axis(batch.ids, first[..., None], axis=-1)[..., 0]
    is_opening = jnp.any(token[..., None] == jnp.array(special.openings, jnp.int32), axis=-1)
    return (first + is_opening).astype(jnp.int32), is_opening


def _write(model: Any, memory: Any, carry: _Progress, number: Array, valid: Array) -> Array:
    ids, mask = carry.written_ids[number - 1], carry.written_mask[number - 1]
    interaction = Interaction(ids, mask, mask, valid[number], ids, mask, valid[number - 1])
    written, _ = write_previous(model, memory, interaction, None)
    return jnp.where(valid[number][:, None, None], written, memory)


def _warm_up(model: Any, memory: Array, is_fresh: Array, batch: Any) -> Array:
    """Write interaction 0 into fresh memories, without gradient."""
    ids, mask = batch.ids[0], batch.token_mask[0]
    interaction = Interaction(ids, mask, mask, batch.valid[0], ids, mask, batch.valid[0] & is_fresh)
    return jax.lax.stop_gradient(write_previous(model, memory, interaction, None)[0])


def _choose(config: RolloutConfig, ids: Array, mask: Array, rewards: Array) -> tuple[Array, Array]:
    """Let one answer of every group be written for all of it."""
    size = config.group_size
    grouped = rewards.reshape(-1, size)
    winner = jnp.argmax(grouped, axis=1) if config.continuation == "best" else jnp.zeros(len(grouped), jnp.int32)
    places = jnp.repeat(jnp.arange(len(grouped)) * size + winner, size)
    return ids[places], mask[places]


def _reward(
    reward: Reward,
    context: RewardContext,
    config: RolloutConfig,
    plan: StepPlan,
    carry: _Progress,
    number: Array,
    row: Any,
    made: Any,
    opening: Array,
    begin: Array,
    answered: Array,
    score: Array | None,
) -> Any:
    """Reward the answers of one interaction; where the mode is cumulative, by the mean over all earlier ones."""
    rows, width = row.ids.shape
    token = jnp.take_along_axis(row.ids, jnp.maximum(begin - 1, 0)[:, None], axis=1)
    head = (token, opening[:, None])
    whole = ((head[0], made.ids), (head[1], made.mask))
    places = jnp.arange(width)
    answer_begin = begin - opening
    in_query = row.token_mask & (places < answer_begin[:, None])
    in_answer = row.token_mask & (places >= answer_begin[:, None])

    def from_left(mask: Array) -> Tokens:
        """Move the real places of a mask to the beginning of the row."""
        order = jnp.argsort(~mask, axis=1, stable=True)
        moved = jnp.take_along_axis(mask, order, axis=1)
        return Tokens(jnp.where(moved, jnp.take_along_axis(row.ids, order, axis=1), 0), moved)

    def written(places: Array) -> Tokens:
        index = jnp.maximum(places, 0)[None, :, None]
        ids, mask = (jnp.take_along_axis(each, index, axis=0)[0] for each in (carry.written_ids, carry.written_mask))
        return Tokens(ids, mask & (places >= 0)[:, None])

    given = RewardInput(
        generated=Tokens(join_parts(*whole, width), join_masks(whole[1], width)),
        answer=from_left(in_answer),
        query=Tokens(jnp.where(in_query, row.ids, 0), in_query),
        saved=written(plan.saved),
        history=written(plan.history),
        mode=plan.mode,
        valid=answered & plan.is_rewarded,
        facts=getattr(row, "facts", None),
        other_facts=getattr(row, "other_facts", None),
        learned=score,
    )
    found = reward(given, context, carry.reward)
    if "cumulative" not in config.strategy.modes:
        return found

    def add(total: Array, place: Array) -> tuple[Array, None]:
        said = given._replace(
            saved=written(jnp.broadcast_to(place, (rows,))),
            history=written(jnp.full((rows,), -1)),
            valid=given.valid & plan.is_cumulative & (place < number),
        )
        return total + reward(said, context, carry.reward).total, None

    total, _ = jax.lax.scan(add, jnp.zeros(rows, jnp.float32), jnp.arange(len(carry.written_ids) - 1))
    return found._replace(total=jnp.where(plan.is_cumulative, total / number, found.total))
