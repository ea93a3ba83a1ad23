"""Online DMPO: a policy learns to prefer the best of its own answers to the worst, and remembers the best.

    memory i, query i ──▶ k answers ──▶ rewards ──▶ best, worst ──▶ DMPO loss          best ──▶ written

Rollouts are those of memory reinforcement, the loss is that of DMPO; nothing here knows a ratio or an advantage.
Source: docs/method.md §19.11.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.loader import Batches
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.rewards import Reward, make_reward_context
from rxt_jax.stages.direct_memory_preference import DirectMemoryPreference, Memories
from rxt_jax.stages.memory_resets import MemoryResets, draw_memories
from rxt_jax.stages.rollout import RolloutConfig, collect, special_ids, tile_rows
from rxt_jax.stages.rollout_batches import RolloutBatches, needs_abstentions, rollout_batches
from rxt_jax.stages.stage import Act, Beginning, Reading, Rebuild
from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.stages.trajectory_metrics import WATCHED, Drawn, trajectory_metrics
from rxt_jax.stages.transcripts import Said, transcripts
from rxt_jax.types import Array, EpisodeBatch, Key, Metrics

__all__ = ["OnlineMemoryPreference", "RankedBatch", "rank_answers"]

_MEMORY, _ROLLOUT = 1, 2  # what a key of acting is folded with


class RankedBatch(NamedTuple):
    """A `PreferenceBatch` that the policy made itself; axis 1 of every leaf counts conversations.

    `drawn` is what is reported of all k answers, `[I B k …]`; `memory` is the one that the conversations began with.
    """

    chosen: EpisodeBatch
    rejected: EpisodeBatch
    neutral: EpisodeBatch
    drawn: Drawn
    memory: Array  # float32 [L B S D]
    reference: None = None


@dataclass(frozen=True, kw_only=True)
class OnlineMemoryPreference(DirectMemoryPreference):
    """Options of online DMPO: those of DMPO, how conversations are led, and the reward that ranks answers."""

    kind = "online_memory_preference"
    rows = RolloutBatches
    watched = (*WATCHED, "pairs/share")

    reward: Reward
    """What an answer is worth; only its order counts."""
    rollout: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(group="branch", group_size=4, continuation="best")
    )
    """How conversations are led: answers of a group come from one memory, and the best one is remembered."""
    min_interactions: int | None = None
    """Interactions that an episode has to have: a shorter one is an error. None: it is led as far as it goes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rollout = self.rollout
        if rollout.group != "branch" or rollout.continuation != "best":
            raise ValueError(
                f"online preferences compare answers from one memory, of which the best is remembered: set "
                f"rollout.group='branch' and rollout.continuation='best', got {rollout.group!r} and "
                f"{rollout.continuation!r}."
            )
        if rollout.soft_warmup:
            raise ValueError("soft_warmup writes interaction 0 twice, which DMPO does not. Set it to False.")
        if self.reference == "precomputed":
            raise ValueError(
                "reference='precomputed' scores data before training, but these answers are made on the way. Use "
                "'decoder', 'full' or 'none'."
            )
        if self.compatibility.memory_rule != "causal":
            raise ValueError(
                "online preferences are scored with the memory they were drawn from: memory_rule='causal'."
            )
        if self.anchor_weight > 0.0:
            raise ValueError("anchor_weight needs neutral answers, which rollouts do not make. Set it to 0.")

    def batches(self, reading: Reading) -> Batches:
        """Read conversations, with the values that they ask for where the reward looks for them."""
        return rollout_batches(reading, self.reward, self.rollout.strategy, min_interactions=self.min_interactions)

    def held_out(self, data: DataConfig) -> DataSource:
        """Choose held-out conversations, to be led like the others."""
        return data.evaluation_source

    def operations(self, config: Any, batch: Any) -> None:
        """Count none: how many tokens are drawn is not known from what is read."""
        return None

    def first_carry(self, beginning: Beginning) -> dict[str, Any]:
        """Carry the reference, and the table that similarity is measured with."""
        return {"reference": super().first_carry(beginning), "table": beginning.params["embedding/table"]}

    def next_carry(self, carry: dict[str, Any], batch: Any, trained: dict[str, Array], update: Array) -> dict[str, Any]:
        """Move the reference when it is due."""
        return carry | {"reference": super().next_carry(carry["reference"], batch, trained, update)}

    def objective_arguments(self, carry: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
        """Make the model that the policy is compared with."""
        return super().objective_arguments(carry["reference"], rebuild)

    def make_act(self, graphdef: nnx.GraphDef, tokenizer: Tokenizer, *, held_out: bool = False) -> Act:
        """Lead the conversations that were read, and pair the answers of every query."""
        special, size = special_ids(tokenizer), self.rollout.group_size
        context = make_reward_context(tokenizer, abstentions=needs_abstentions(self.reward))

        def act(params: nnx.State, carry: dict[str, Any], batch: Any, update: Array, key: Key) -> RankedBatch:
            model = nnx.merge(graphdef, params)
            batch = tile_rows(batch, size)
            drawn = jax.random.fold_in(key, _MEMORY)
            rows = batch.ids.shape[1]
            memory, fresh = draw_memories(MemoryResets(), model, rows, None, update, drawn, shared=size)
            here = context._replace(embedding=jax.lax.stop_gradient(carry["table"]), update=update)
            rolled = jax.random.fold_in(key, _ROLLOUT)
            made = collect(model, batch, memory, fresh, rolled, self.rollout, self.reward, here, special)
            return rank_answers(made, size)

        return act

    def first_memory(self, model: Any, batch: RankedBatch, key: Key | None, **arguments: Any) -> Memories:
        """Give the memories that the conversations began with; where that is a parameter, with its gradient."""
        memories = super().first_memory(model, batch, key, **arguments)
        if model.config.initial_memory == "learned":
            return memories
        return Memories(batch.memory, None if memories.reference is None else batch.memory)

    def transcripts(self, batch: RankedBatch, tokenizer: Tokenizer) -> list[str]:
        """Write down some of the conversations that were led, with the best and the worst answer where they differ."""
        best, worst = _extremes(batch.drawn)
        said = {
            "best": Said(batch.chosen.ids, batch.chosen.token_mask, best),
            "worst": Said(batch.rejected.ids, batch.rejected.token_mask, worst),
        }
        return transcripts(tokenizer, said, batch.chosen.valid)

    def batch_metrics(self, batch: RankedBatch) -> Metrics:
        """Say what the rollout was like, how many queries gave a pair, and how far best and worst are apart."""
        everyone = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), batch.drawn)
        asked = jnp.sum(jnp.any(batch.drawn.answered, axis=-1), dtype=jnp.float32)
        paired = batch.rejected.valid
        pairs = jnp.sum(paired, dtype=jnp.float32)
        best, worst = _extremes(batch.drawn)
        return trajectory_metrics(everyone, has_values=False) | {
            "pairs/share": (pairs, asked),
            "pairs/reward_gap": (jnp.sum(jnp.where(paired, best - worst, 0.0)), pairs),
        }


def rank_answers(made: Trajectory, size: int) -> RankedBatch:
    """Pair the best and the worst of every group of `size` neighbouring rows. Equal rewards make no pair.

    The chosen rows are those that were written, so DMPO walks the chain of memories that the answers came from.
    """

    def grouped(leaf: Array) -> Array:
        return leaf.reshape(leaf.shape[0], -1, size, *leaf.shape[2:])

    drawn = Drawn(*(jax.tree.map(grouped, getattr(made, name)) for name in Drawn._fields))
    best, worst = _extremes(drawn)
    worst_place = jnp.argmin(jnp.where(drawn.answered, drawn.rewards, jnp.inf), axis=-1)
    paired = jnp.any(drawn.answered, axis=-1) & (best > worst)
    valid, start = made.valid[:, ::size], made.start[:, ::size]

    def loser(leaf: Array) -> Array:
        return jnp.take_along_axis(grouped(leaf), worst_place[..., None, None], axis=2)[:, :, 0]

    def answers(ids: Array, token_mask: Array, valid: Array) -> EpisodeBatch:
        drawn_tokens = token_mask & (jnp.arange(ids.shape[-1]) >= start[..., None]) & paired[..., None]
        return EpisodeBatch(ids, token_mask, drawn_tokens, valid)

    chosen = answers(made.written_ids[:, ::size], made.written_mask[:, ::size], valid)
    rejected = answers(loser(made.ids), loser(made.token_mask), valid & paired)
    none = rejected._replace(valid=jnp.zeros_like(valid))
    return RankedBatch(chosen, rejected, none, drawn, made.memory[:, ::size])


def _extremes(drawn: Drawn) -> tuple[Array, Array]:
    """Return the largest and the smallest reward of every query, `[I B]`; 0 where nothing was answered."""
    some = jnp.any(drawn.answered, axis=-1)
    best = jnp.max(jnp.where(drawn.answered, drawn.rewards, -jnp.inf), axis=-1)
    worst = jnp.min(jnp.where(drawn.answered, drawn.rewards, jnp.inf), axis=-1)
    return jnp.where(some, best, 0.0), jnp.where(some, worst, 0.0)
