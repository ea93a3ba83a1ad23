"""Memory reinforcement: conversations are led, rewarded, and learnt from, with the gradient through memory.

    rows ──▶ rollout ──▶ scored by policy, reference and critic ──▶ advantages ──▶ trajectory      (make_act)
    trajectory ──▶ policy loss + critic loss                              (stages/trajectory_learning.py)

Acting and scoring walk the same chain from the same memory, so with unchanged parameters every ratio is 1. The loss of
answer i is differentiated through the writes before it: this, not a reward for memory, is what trains memory.
Source: docs/method.md §19.7.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.data.loader import Batches
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.losses.advantages import AdvantageInput, estimate_advantages
from rxt_jax.nn.parameters import with_parameters
from rxt_jax.rewards import Reward, make_reward_context
from rxt_jax.stages.kl_budget import KlBudget, drawn_divergence, next_weight
from rxt_jax.stages.memory_resets import MemoryResets, draw_memories
from rxt_jax.stages.replay import ReplayConfig, empty_replay, episode_scores, next_replay, with_replay
from rxt_jax.stages.rollout import RolloutConfig, collect, special_ids, tile_rows
from rxt_jax.stages.rollout_batches import RolloutBatches, needs_abstentions, rollout_batches
from rxt_jax.stages.stage import Act, Beginning, Passes, Reading, Rebuild
from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.stages.trajectory_learning import TrajectoryLearning
from rxt_jax.stages.trajectory_metrics import WATCHED
from rxt_jax.stages.trajectory_scoring import score_trajectory
from rxt_jax.stages.transcripts import Said, transcripts
from rxt_jax.types import Array, Key

__all__ = ["MemoryReinforcement"]

_RESETS, _ROLLOUT = 1, 2  # what a key of acting is folded with


@dataclass(frozen=True, kw_only=True)
class MemoryReinforcement(TrajectoryLearning):
    """Options of memory reinforcement.

    A batch of conversations is led once and learnt from in `update_epochs` passes of `minibatches` updates each.
    `losses.make_algorithm` has `policy` and `advantage` by the name of an algorithm.
    """

    kind = "memory_reinforcement"
    rows = RolloutBatches
    watched = WATCHED

    reward: Reward
    """What an answer is worth."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How conversations are led."""
    update_epochs: int = 1
    """Passes over a batch."""
    minibatches: int = 1
    """Updates of a pass."""
    target_kl: float | None = 0.02
    """Passes end when the policy is further than this from the one that acted; None for never."""
    log_probs_source: Literal["rescore", "collect"] = "rescore"
    """Old log-probabilities: "rescore" computes them as the loss does, "collect" takes those of the generation
    (published), only without temperature and filters, and not with replay."""
    reference: Literal["none", "frozen"] = "frozen"
    """Whether there is a copy of the parameters that train, to stay close to."""
    reference_sync_every: int | None = None
    """Updates between its moves towards the policy, None for a frozen one."""
    reference_sync_rate: float = 1.0
    """How far it moves, 1 = all the way."""
    kl_budget: KlBudget | None = None
    """How far the policy may be from the reference: the weight of that divergence follows. None for a weight that
    stands still."""
    resets: MemoryResets = field(default_factory=MemoryResets)
    """With which memory conversations begin."""
    replay: ReplayConfig | None = None
    """Earlier episodes that are learnt from again, None for none."""
    min_interactions: int | None = None
    """Interactions that an episode has to have: a shorter one is an error. None: it is led as far as it goes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("update_epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.reference_sync_every is not None and self.reference_sync_every < 1:
            raise ValueError(f"reference_sync_every must be None or at least 1, got {self.reference_sync_every}.")
        if self.target_kl is not None and self.target_kl <= 0.0:
            raise ValueError(f"target_kl must be positive, got {self.target_kl}. Use None to make all passes.")
        if self.policy.surrogate.kind == "reinforce" and self.update_epochs * self.minibatches > 1:
            raise ValueError(
                "surrogate 'reinforce' has no ratio to hold it back: it learns from a batch once. Set update_epochs "
                "and minibatches to 1, or take surrogate 'clipped'."
            )
        if self.advantage.needs_groups and self.rollout.group_size < 2:
            raise ValueError(
                f"advantage {self.advantage.kind!r} compares answers to one query: set rollout.group_size to 2 or more."
            )
        if self.log_probs_source == "collect" and not (self.rollout.is_raw and self.replay is None):
            raise ValueError(
                "log_probs_source='collect' is for temperature 1 without filters and without replay: old "
                "log-probabilities would be of another distribution. Use 'rescore'."
            )
        if self.replay is not None and self.advantage.needs_groups:
            raise ValueError(
                f"replay keeps single episodes, but advantage {self.advantage.kind!r} compares all answers of a group. "
                f"Leave one of them out."
            )
        if self.reference == "none" and self.reference_sync_every is not None:
            raise ValueError("reference_sync_every moves a reference, but reference is 'none'.")
        if self.kl_budget is not None and not self.has_reference:
            raise ValueError(
                "kl_budget moves the weight of the divergence from a reference: set reference='frozen' and "
                "policy.reference_weight, with which the weight begins, above 0."
            )

    def batches(self, reading: Reading) -> Batches:
        """Read conversations, with the values that they ask for where the reward looks for them."""
        return rollout_batches(reading, self.reward, self.rollout.strategy, min_interactions=self.min_interactions)

    @property
    def passes(self) -> Passes:
        """Learn from a batch several times, until the policy has moved far enough."""
        limit = None if self.target_kl is None else ("policy/approximate_kl", self.target_kl)
        return Passes(self.update_epochs, self.minibatches, limit)

    @property
    def has_reference(self) -> bool:
        """Whether trajectories hold the log-probabilities of a reference."""
        return self.reference == "frozen" and self.policy.reference_weight > 0.0

    def first_carry(self, beginning: Beginning) -> dict[str, Any]:
        """Carry the reference and its weight, the table that similarity is measured with, memories, and the replay."""
        carry: dict[str, Any] = {"table": beginning.params["embedding/table"]}
        if self.has_reference:
            carry["reference"] = {
                path: value
                for group, paths in beginning.groups.items()
                for path, value in paths.items()
                if group != "critic"
            }
        if self.kl_budget is not None:
            carry["reference_weight"] = jnp.float32(self.policy.reference_weight)
        if self.resets.always_fresh and self.replay is None:
            return carry
        made = jax.eval_shape(lambda: self._act_once(beginning))
        if not self.resets.always_fresh:
            carry["memory"] = jnp.zeros(made.last_memory.shape, made.last_memory.dtype)
        if self.replay is not None:
            carry["replay"] = empty_replay(self.replay, made)
        return carry

    def _act_once(self, beginning: Beginning) -> Trajectory:
        """Lead one batch without replay and resets, for the shapes of what comes out."""
        batch = tile_rows(jax.tree.map(jnp.asarray, beginning.batch), self.rollout.group_size)
        model = nnx.merge(beginning.graphdef, beginning.state)
        memory = model.initial_memory(batch.ids.shape[1], jax.random.key(0))
        table, phrases = beginning.params["embedding/table"], needs_abstentions(self.reward)
        context = make_reward_context(beginning.tokenizer, table, abstentions=phrases)
        fresh = jnp.ones(batch.ids.shape[1], bool)
        special = special_ids(beginning.tokenizer)
        key = jax.random.key(0)
        return collect(model, batch, memory, fresh, key, self.rollout, self.reward, context, special)

    def next_carry(
        self, carry: dict[str, Any], batch: Trajectory, trained: dict[str, Array], update: Array
    ) -> dict[str, Any]:
        """Move the reference, keep the memories that conversations ended with, exchange replayed episodes."""
        carry = dict(carry)
        if self.has_reference and self.reference_sync_every is not None:
            rate = jnp.where(update % self.reference_sync_every == 0, self.reference_sync_rate, 0.0)
            carry["reference"] = {
                path: value + rate * (trained[path] - value) for path, value in carry["reference"].items()
            }
        size = 0 if self.replay is None else self.replay.size
        new = jax.tree.map(lambda leaf: leaf[:, : leaf.shape[1] - size], batch)
        if self.kl_budget is not None:
            carry["reference_weight"] = next_weight(self.kl_budget, carry["reference_weight"], drawn_divergence(new))
        if "memory" in carry:
            carry["memory"] = jax.lax.stop_gradient(new.last_memory)
        if self.replay is not None:
            scores = episode_scores(new.rewards.T[..., None], new.answered.T[..., None])
            carry["replay"] = next_replay(self.replay, carry["replay"], new, scores)
        return carry

    def objective_arguments(self, carry: dict[str, Any], rebuild: Rebuild) -> dict[str, Any]:
        """Hand on the weight of the divergence where it moves."""
        return {} if self.kl_budget is None else {"reference_weight": carry["reference_weight"]}

    def make_act(self, graphdef: nnx.GraphDef, tokenizer: Tokenizer, *, held_out: bool = False) -> Act:
        """Lead the conversations that were read and score them; `held_out` begins afresh and replays nothing."""
        special = special_ids(tokenizer)
        context = make_reward_context(tokenizer, abstentions=needs_abstentions(self.reward))

        def act(params: nnx.State, carry: dict[str, Any], batch: Any, update: Array, key: Key) -> Trajectory:
            model = nnx.merge(graphdef, params)
            batch = tile_rows(batch, self.rollout.group_size)
            left = None if held_out else carry.get("memory")
            drawn = jax.random.fold_in(key, _RESETS)
            rows, shared = batch.ids.shape[1], self.rollout.rows_per_memory
            memory, fresh = draw_memories(self.resets, model, rows, left, update, drawn, shared=shared)
            frozen = jax.lax.stop_gradient(carry["table"])
            here = context._replace(embedding=frozen, update=update)
            rolled = jax.random.fold_in(key, _ROLLOUT)
            made = collect(model, batch, memory, fresh, rolled, self.rollout, self.reward, here, special)
            if self.replay is not None:
                made = with_replay(made, carry["replay"], is_empty=held_out)
            reference = None
            if self.has_reference:
                reference = nnx.merge(graphdef, with_parameters(params, carry["reference"]))
            return self._with_scores(model, reference, made)

        return act

    def transcripts(self, batch: Trajectory, tokenizer: Tokenizer) -> list[str]:
        """Write down some of the conversations that were led, of a group the first."""
        leaves = (batch.ids, batch.token_mask, batch.rewards, batch.valid)
        *said, valid = (leaf[:, :: self.rollout.group_size] for leaf in leaves)
        return transcripts(tokenizer, {"model": Said(*said)}, valid)

    def _with_scores(self, model: Any, reference: Any, made: Trajectory) -> Trajectory:
        """Add what policy, reference and critic say of a trajectory, and its advantages."""
        found = score_trajectory(model, made, critic=self.fit_of(model), clamp=self.clamp_logits)
        values = found.get("values", jnp.zeros_like(made.rewards))
        old = found["log_probs"] if self.log_probs_source == "rescore" else made.old_log_probs
        other = made.reference_log_probs
        if reference is not None:
            other = score_trajectory(reference, made, clamp=self.clamp_logits)["log_probs"]
        given = AdvantageInput(made.rewards, values, made.done, made.answered)
        advantages = estimate_advantages(self.advantage, given, self.rollout.group_size)
        return made._replace(
            old_log_probs=old,
            reference_log_probs=other,
            values=values,
            advantages=advantages.advantages,
            returns=advantages.returns,
        )
