"""Memory reinforcement: conversations are led, rewarded, and learnt from, with the gradient through memory.

    rows ──▶ rollout ──▶ scored by policy, reference and critic ──▶ advantages ──▶ trajectory      (make_act)
    trajectory ──▶ interaction i − 1 is written ──▶ answer i is scored ──▶ policy loss + critic loss     (objective)

Acting and scoring walk the same chain from the same memory, so with unchanged parameters every ratio is 1. The loss of
answer i is differentiated through the writes before it: this, not a reward for memory, is what trains memory.
Source: docs/method.md §19.7.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.data.loader import Batches
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.losses.advantages import AdvantageConfig, AdvantageInput, estimate_advantages
from rxt_jax.losses.memory_policy import (
    AnswerBefore,
    MemoryPolicyConfig,
    PolicyInput,
    memory_change,
    policy_loss,
    shared_places,
)
from rxt_jax.losses.policy_gradient import critic_loss
from rxt_jax.model.episode import scan_interactions
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.nn.parameters import with_parameters
from rxt_jax.nn.remat import check_remat
from rxt_jax.rewards import Reward, make_reward_context
from rxt_jax.stages.memory_resets import MemoryResets, draw_memories
from rxt_jax.stages.replay import ReplayConfig, empty_replay, episode_scores, next_replay, with_replay
from rxt_jax.stages.rollout import RolloutConfig, collect, special_ids, tile_rows
from rxt_jax.stages.rollout_batches import RolloutBatches, needs_facts
from rxt_jax.stages.stage import Act, Beginning, EpisodeStage, Passes, Reading
from rxt_jax.stages.trajectory import (
    Step,
    Trajectory,
    first_memory,
    read_and_score,
    split_steps,
)
from rxt_jax.stages.trajectory_metrics import trajectory_metrics
from rxt_jax.stages.trajectory_scoring import CriticFit, critic_values, score_trajectory
from rxt_jax.types import Array, Key, Metrics

__all__ = ["MemoryReinforcement"]

_RESETS, _ROLLOUT = 1, 2  # what a key of acting is folded with


class _Chain(NamedTuple):
    """What is carried from interaction to interaction: memory, and the answer before where it is wanted, `[1 B …]`."""

    memory: Array
    before: AnswerBefore | None


class _Scored(NamedTuple):
    """An interaction with its denominators, and its share of the loss."""

    step: Step
    tokens: Array
    sequences: Array
    shared: Array
    factor: Array

    @property
    def valid(self) -> Array:
        return self.step.valid


@dataclass(frozen=True, kw_only=True)
class MemoryReinforcement(EpisodeStage):
    """Options of memory reinforcement.

    A batch of conversations is led once and learnt from in `update_epochs` passes of `minibatches` updates each.
    `losses.make_algorithm` has `policy` and `advantage` by the name of an algorithm.
    """

    kind = "memory_reinforcement"
    rows = RolloutBatches
    watched = ("reward/total", "policy/approximate_kl", "answer/length")

    reward: Reward
    """What an answer is worth."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How conversations are led."""
    policy: MemoryPolicyConfig = field(default_factory=MemoryPolicyConfig)
    """The loss of what was drawn."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """By how much an answer was better than expected."""
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
    critic: CriticFit = field(default_factory=CriticFit)
    """How the critic is fitted, where the model has one."""
    resets: MemoryResets = field(default_factory=MemoryResets)
    """With which memory conversations begin."""
    replay: ReplayConfig | None = None
    """Earlier episodes that are learnt from again, None for none."""
    memory_gradient_steps: int | None = None
    """Memory writes that a gradient goes back through, None for all; published: 1."""
    interactions_per_update: int | None = None
    """Interactions of one update, None for the whole episode; published: 1."""
    clamp_logits: float | None = None
    """Bound of the logits that are scored, None for none."""
    balance_loss_scale: float = 0.01
    """Scale of the routers' balance loss."""
    remat: str = "full"
    """What of an interaction is kept for the gradient: none (all of it), full (nothing), names or offload."""
    trainable: tuple[str, ...] = (
        "embedding",
        "encoder",
        "decoder",
        "cross_attention",
        "memory_attention",
        "learned_memory",
        "critic",
    )
    """Parameter groups that train."""
    unfreeze: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """(update, groups): groups that begin to move later (`stages.reinforcement_plans.unfreeze_plan`)."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
        for name in ("update_epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("memory_gradient_steps", "interactions_per_update", "reference_sync_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be None or at least 1, got {value}.")
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
        if self.advantage.needs_values and "critic" not in self.trainable:
            raise ValueError(
                f"advantage {self.advantage.kind!r} needs a critic that is fitted: put 'critic' among `trainable`."
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

    def batches(self, reading: Reading) -> Batches:
        """Read conversations, with the values that they ask for where the reward looks for them."""
        return reading.batches(self.rows, facts=needs_facts(self.reward))

    @property
    def passes(self) -> Passes:
        """Learn from a batch several times, until the policy has moved far enough."""
        limit = None if self.target_kl is None else ("policy/approximate_kl", self.target_kl)
        return Passes(self.update_epochs, self.minibatches, limit)

    @property
    def _has_reference(self) -> bool:
        return self.reference == "frozen" and self.policy.reference_weight > 0.0

    @property
    def _is_consistent(self) -> bool:
        return self.policy.consistency_weight > 0.0

    def first_params(self, params: dict[str, Array]) -> dict[str, Array]:
        """Begin the critic as a copy of the encoder and the embedding, which can read already."""
        own = {path for path in params if path.startswith(("critic/layers/", "critic/embedding/"))}
        origin = {path: path.removeprefix("critic/") for path in own}
        origin = {path: of if of.startswith("embedding/") else f"encoder/{of}" for path, of in origin.items()}
        fits = {path: of for path, of in origin.items() if of in params and params[of].shape == params[path].shape}
        return params | {path: params[of] for path, of in fits.items()}

    def first_carry(self, beginning: Beginning) -> dict[str, Any]:
        """Carry the reference, the table that similarity is measured with, memories to go on from, and the replay."""
        carry: dict[str, Any] = {"table": beginning.params["embedding/table"]}
        if self._has_reference:
            carry["reference"] = {
                path: value
                for group, paths in beginning.groups.items()
                for path, value in paths.items()
                if group != "critic"
            }
        if self.resets.ratio == 1.0 and self.replay is None:
            return carry
        made = jax.eval_shape(lambda: self._act_once(beginning))
        if self.resets.ratio < 1.0:
            carry["memory"] = jnp.zeros(made.last_memory.shape, made.last_memory.dtype)
        if self.replay is not None:
            carry["replay"] = empty_replay(self.replay, made)
        return carry

    def _act_once(self, beginning: Beginning) -> Trajectory:
        """Lead one batch without replay and resets, for the shapes of what comes out."""
        batch = tile_rows(jax.tree.map(jnp.asarray, beginning.batch), self.rollout.group_size)
        model = nnx.merge(beginning.graphdef, beginning.state)
        memory = model.initial_memory(batch.ids.shape[1], jax.random.key(0))
        context = make_reward_context(beginning.tokenizer, beginning.params["embedding/table"])
        fresh = jnp.ones(batch.ids.shape[1], bool)
        special = special_ids(beginning.tokenizer)
        key = jax.random.key(0)
        return collect(model, batch, memory, fresh, key, self.rollout, self.reward, context, special)

    def next_carry(
        self, carry: dict[str, Any], batch: Trajectory, trained: dict[str, Array], update: Array
    ) -> dict[str, Any]:
        """Move the reference, keep the memories that conversations ended with, exchange replayed episodes."""
        carry = dict(carry)
        if self._has_reference and self.reference_sync_every is not None:
            rate = jnp.where(update % self.reference_sync_every == 0, self.reference_sync_rate, 0.0)
            carry["reference"] = {
                path: value + rate * (trained[path] - value) for path, value in carry["reference"].items()
            }
        size = 0 if self.replay is None else self.replay.size
        new = jax.tree.map(lambda leaf: leaf[:, : leaf.shape[1] - size], batch)
        if "memory" in carry:
            carry["memory"] = jax.lax.stop_gradient(new.last_memory)
        if self.replay is not None:
            scores = episode_scores(new.rewards.T[..., None], new.answered.T[..., None])
            carry["replay"] = next_replay(self.replay, carry["replay"], new, scores)
        return carry

    def make_act(self, graphdef: nnx.GraphDef, tokenizer: Tokenizer, *, held_out: bool = False) -> Act:
        """Lead the conversations that were read and score them; `held_out` begins afresh and replays nothing."""
        special = special_ids(tokenizer)
        context = make_reward_context(tokenizer)

        @jax.jit
        def act(params: nnx.State, carry: dict[str, Any], batch: Any, update: Array, key: Key) -> Trajectory:
            model = nnx.merge(graphdef, params)
            batch = tile_rows(batch, self.rollout.group_size)
            left = None if held_out else carry.get("memory")
            drawn = jax.random.fold_in(key, _RESETS)
            memory, fresh = draw_memories(self.resets, model, batch.ids.shape[1], left, update, drawn)
            frozen = jax.lax.stop_gradient(carry["table"])
            here = context._replace(embedding=frozen, update=update)
            rolled = jax.random.fold_in(key, _ROLLOUT)
            made = collect(model, batch, memory, fresh, rolled, self.rollout, self.reward, here, special)
            if self.replay is not None:
                made = with_replay(made, carry["replay"], is_empty=held_out)
            reference = None
            if self._has_reference:
                reference = nnx.merge(graphdef, with_parameters(params, carry["reference"]))
            return self._with_scores(model, reference, made)

        return lambda params, carry, batch, update, key: act(params, carry, batch, jnp.int32(update), key)

    def _with_scores(self, model: Any, reference: Any, made: Trajectory) -> Trajectory:
        """Add what policy, reference and critic say of a trajectory, and its advantages."""
        found = score_trajectory(model, made, critic=self._fit(model), clamp=self.clamp_logits)
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

    def _fit(self, model: Any) -> CriticFit | None:
        """Return how the critic is fitted, None where advantages need none."""
        if model.config.critic is None and self.advantage.needs_values:
            raise ValueError(
                f"advantage {self.advantage.kind!r} needs a critic, but the model has none: set model.critic to "
                f"CriticConfig(), or choose an advantage without values, such as 'grpo' or 'rloo'."
            )
        return self.critic if self.advantage.needs_values else None

    def batch_metrics(self, batch: Trajectory) -> Metrics:
        """Say what the rollout was like: rewards and their parts, lengths, endings, what the critic explains."""
        return trajectory_metrics(batch, has_values=self.advantage.needs_values)

    def label_counts(self, batch: Trajectory | Step) -> dict[str, Array]:
        """Count drawn tokens, answers, and places that are compared with the answer before, by interaction, `[I]`."""
        steps = split_steps(batch) if isinstance(batch, Trajectory) else batch
        compared = shared_places(self.policy, steps.length, steps.length_before, steps.actions.shape[-1])
        compared = jnp.where(steps.answered, compared, 0)
        counts = {"tokens": steps.length, "sequences": steps.answered, "shared": compared}
        return {name: jnp.sum(count, axis=1, dtype=jnp.float32) for name, count in counts.items()}

    def interactions(self, batch: Trajectory) -> Step:
        """Prepare a trajectory for the engine."""
        return split_steps(batch)

    def begin(self, model: Any, batch_size: int, key: Key | None, **arguments: Any) -> Array:
        """Give a fresh memory; where a trajectory began says `first_memory`."""
        return beginning_memory(model, batch_size, key)

    def first_memory(self, model: Any, batch: Trajectory, key: Key | None, **arguments: Any) -> _Chain:
        """Give the memory that the trajectory began with, and no answer before."""
        memory, before = first_memory(model, batch), None
        if self._is_consistent:
            rows, length = batch.actions.shape[1:]
            uniform = jnp.zeros((1, rows, length, model.config.vocab_size), jnp.float32)
            before = AnswerBefore(uniform, jnp.zeros((1, rows, length), bool))
        return _Chain(memory, before)

    def objective(
        self, model: Any, batch: Trajectory, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score a whole trajectory; `counts` are the label counts of the whole update."""
        chain = self.first_memory(model, batch, key)
        loss, (_, metrics) = self.window_objective(model, chain, self.interactions(batch), key, counts)
        return loss, metrics

    def window_objective(
        self,
        model: Any,
        memory: _Chain,
        interactions: Step,
        key: Key | None,
        counts: dict[str, Array],
        *,
        start: int | Array = 0,
    ) -> tuple[Array, tuple[_Chain, Metrics]]:
        """Score a run of interactions; each counts as much as any other that has an answer."""
        number = jnp.maximum(jnp.sum(counts["sequences"] > 0), 1)
        factor = jnp.where(counts["sequences"] > 0, 1.0 / number, 0.0)
        scored = _Scored(interactions, counts["tokens"], counts["sequences"], counts["shared"], factor)
        return scan_interactions(
            self._interaction_objective,
            model,
            memory,
            scored,
            None,
            memory_gradient_steps=self.memory_gradient_steps,
            remat=self.remat,
            start=start,
        )

    def _interaction_objective(
        self, model: Any, chain: _Chain, scored: _Scored, key: Key | None
    ) -> tuple[Array, tuple[_Chain, Metrics]]:
        step = scored.step
        before = None if chain.before is None else AnswerBefore(*(leaf[0] for leaf in chain.before))
        answered = read_and_score(
            model,
            chain.memory,
            step,
            before=before,
            keep_distribution=self._is_consistent,
            clamp=self.clamp_logits,
            gradient=bool({"encoder", "memory_attention"} & set(self.trainable)),
            balanced=True,
        )
        given = PolicyInput(
            step.action_mask,
            step.answered,
            step.advantages,
            step.old_log_probs,
            step.behaviour_log_probs,
            step.reference_log_probs if self._has_reference else None,
            before,
        )
        loss, metrics = policy_loss(
            self.policy,
            answered.scores,
            given,
            memory_change(answered.memory, chain.memory),
            number=step.number,
            tokens=scored.tokens,
            sequences=scored.sequences,
            shared=scored.shared,
        )
        balance = answered.balance + answered.report.balance
        loss = loss + self.balance_loss_scale * balance
        fit = self._fit(model)
        if fit is not None:
            values = critic_values(model, answered.memory, step, fit)
            squares = critic_loss(values, step.returns, step.values, bound=fit.bound, clip=fit.clip)
            total = jnp.sum(jnp.where(step.answered, squares, 0.0))
            loss = loss + fit.weight * total / jnp.maximum(scored.sequences, 1.0)
            metrics["critic/loss"] = (total, jnp.sum(step.answered, dtype=jnp.float32))
        metrics |= answered.report.metrics(step.interaction)
        metrics["router/balance"] = (balance, (scored.sequences > 0).astype(jnp.float32))
        after = chain.before
        if answered.scores.distribution is not None:
            distribution = jax.lax.stop_gradient(answered.scores.distribution)
            after = AnswerBefore(distribution[None], (step.action_mask & step.answered[:, None])[None])
        return scored.factor * loss, (_Chain(answered.memory, after), metrics)
