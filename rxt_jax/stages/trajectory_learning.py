"""Learning from trajectories: the loss of what was drawn, with the gradient through memory.

    trajectory ──▶ interaction i − 1 is written ──▶ answer i is scored ──▶ policy loss + critic loss

The loss of answer i is differentiated through the writes before it: this, not a reward for memory, is what trains
memory. How a trajectory comes about is no matter here (`stages/memory_reinforcement.py`). Source: docs/method.md §19.7.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from rxt_jax.losses.advantages import AdvantageConfig
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
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.stage import EpisodeStage
from rxt_jax.stages.trajectory import Step, Trajectory, first_memory, read_and_score, split_steps
from rxt_jax.stages.trajectory_metrics import trajectory_metrics
from rxt_jax.stages.trajectory_scoring import CriticFit, critic_values
from rxt_jax.types import Array, Key, Metrics

__all__ = ["Chain", "TrajectoryLearning"]


class Chain(NamedTuple):
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
class TrajectoryLearning(EpisodeStage):
    """Options of the loss of a trajectory."""

    policy: MemoryPolicyConfig = field(default_factory=MemoryPolicyConfig)
    """The loss of what was drawn."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    """By how much an answer was better than expected."""
    critic: CriticFit = field(default_factory=CriticFit)
    """How the critic is fitted, where the model has one."""
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
        for name in ("memory_gradient_steps", "interactions_per_update"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be None or at least 1, got {value}.")
        if self.advantage.needs_values and "critic" not in self.trainable:
            raise ValueError(
                f"advantage {self.advantage.kind!r} needs a critic that is fitted: put 'critic' among `trainable`."
            )

    @property
    def has_reference(self) -> bool:
        """Whether trajectories hold the log-probabilities of a reference."""
        return False

    @property
    def _is_consistent(self) -> bool:
        return self.policy.consistency_weight > 0.0

    def continued(self) -> Self:
        """Go on with the critic of the run before."""
        return replace(self, critic=replace(self.critic, copy_encoder=False))

    def first_params(self, params: dict[str, Array]) -> dict[str, Array]:
        """Begin the critic as a copy of the encoder and the embedding, which can read already."""
        if not self.critic.copy_encoder:
            return params
        own = {path for path in params if path.startswith(("critic/layers/", "critic/embedding/"))}
        origin = {path: path.removeprefix("critic/") for path in own}
        origin = {path: of if of.startswith("embedding/") else f"encoder/{of}" for path, of in origin.items()}
        fits = {path: of for path, of in origin.items() if of in params and params[of].shape == params[path].shape}
        return params | {path: params[of] for path, of in fits.items()}

    def fit_of(self, model: Any) -> CriticFit | None:
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

    def first_memory(self, model: Any, batch: Trajectory, key: Key | None, **arguments: Any) -> Chain:
        """Give the memory that the trajectory began with, and no answer before."""
        memory, before = first_memory(model, batch), None
        if self._is_consistent:
            rows, length = batch.actions.shape[1:]
            uniform = jnp.zeros((1, rows, length, model.config.vocab_size), jnp.float32)
            before = AnswerBefore(uniform, jnp.zeros((1, rows, length), bool))
        return Chain(memory, before)

    def objective(
        self,
        model: Any,
        batch: Trajectory,
        key: Key | None,
        counts: dict[str, Array],
        *,
        reference_weight: Array | None = None,
    ) -> tuple[Array, Metrics]:
        """Score a whole trajectory; `counts` are the label counts of the whole update.

        `reference_weight`: the weight of the divergence from the reference where that moves, None for the policy's own.
        """
        chain, steps = self.first_memory(model, batch, key), self.interactions(batch)
        loss, (_, metrics) = self.window_objective(model, chain, steps, key, counts, reference_weight=reference_weight)
        return loss, metrics

    def window_objective(
        self,
        model: Any,
        memory: Chain,
        interactions: Step,
        key: Key | None,
        counts: dict[str, Array],
        *,
        start: int | Array = 0,
        reference_weight: Array | None = None,
    ) -> tuple[Array, tuple[Chain, Metrics]]:
        """Score a run of interactions; each counts as much as any other that has an answer."""
        number = jnp.maximum(jnp.sum(counts["sequences"] > 0), 1)
        factor = jnp.where(counts["sequences"] > 0, 1.0 / number, 0.0)
        scored = _Scored(interactions, counts["tokens"], counts["sequences"], counts["shared"], factor)
        return scan_interactions(
            functools.partial(self._interaction_objective, reference_weight=reference_weight),
            model,
            memory,
            scored,
            None,
            memory_gradient_steps=self.memory_gradient_steps,
            remat=self.remat,
            start=start,
        )

    def _interaction_objective(
        self, model: Any, chain: Chain, scored: _Scored, key: Key | None, *, reference_weight: Array | None
    ) -> tuple[Array, tuple[Chain, Metrics]]:
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
            step.reference_log_probs if self.has_reference else None,
            before,
        )
        loss, metrics = policy_loss(
            self.policy,
            answered.scores,
            given,
            memory_change(answered.memory, chain.memory),
            number=step.number,
            reference_weight=reference_weight,
            tokens=scored.tokens,
            sequences=scored.sequences,
            shared=scored.shared,
        )
        balance = answered.balance + answered.report.balance
        loss = loss + self.balance_loss_scale * balance
        fit = self.fit_of(model)
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
        return scored.factor * loss, (Chain(answered.memory, after), metrics)
