"""A reward model is taught by preferences: which of two answers is better, given memory of what was said.

    memory i−1, chosen interaction i−1 ──▶ encode ──▶ update_memory ──▶ memory i      (the reward model's own)
    memory i, query i + {chosen, rejected} answer ──▶ read ──▶ scores ──▶ Bradley-Terry loss

Memory is written by chosen answers alone and never holds the answer that is scored. The model that answers is not
touched. Source: docs/method.md §19.10.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.loader import PreferenceBatches
from rxt_jax.losses.reward_pairs import RewardPairConfig, reward_pair_losses
from rxt_jax.model.episode import scan_interactions
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.answer_scoring import Answers, answers_of
from rxt_jax.stages.memory_writing import row_cosine, write_previous
from rxt_jax.stages.stage import Stage
from rxt_jax.types import Array, Key, Metrics, PreferenceBatch

__all__ = ["RewardModeling", "require_reward_model", "score_side_by_side"]


class _Numbered(NamedTuple):
    """An interaction with its number."""

    answers: Answers
    number: Array

    @property
    def valid(self) -> Array:
        return self.answers.valid


@dataclass(frozen=True, kw_only=True)
class RewardModeling(Stage):
    """Options of training a reward model on preference episodes."""

    kind = "reward_modeling"
    rows = PreferenceBatches
    watched = ("score/accuracy", "score/margin")

    pair: RewardPairConfig = field(default_factory=RewardPairConfig)
    """The loss of a pair."""
    copy_model: bool = True
    """Whether it begins as a copy of the model's parts that it has as well. False: it goes on as it is."""
    memory_gradient_steps: int | None = None
    """Memory writes that a gradient may cross; None = all of the episode."""
    balance_loss_scale: float = 0.001
    """Factor of the encoder's router loss; a dense model has none."""
    remat: str = "full"
    """What of an interaction is kept for the gradient: none (all of it), full (nothing), names or offload."""
    trainable: tuple[str, ...] = ("reward_model", "reward_memory")
    """Parameter groups that train: what reads and scores, and what writes the memory that it reads. Without the latter
    that memory stays the one of the model it was copied from."""
    unfreeze: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Pairs of an update and the groups that stand still before it."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
        if self.memory_gradient_steps is not None and self.memory_gradient_steps < 1:
            raise ValueError(f"memory_gradient_steps must be None or at least 1, got {self.memory_gradient_steps}.")
        if "reward_model" not in self.trainable:
            raise ValueError("a stage that trains a reward model needs the group 'reward_model' among `trainable`.")

    def held_out(self, data: DataConfig) -> DataSource:
        """Choose held-out preferences."""
        return data.held_out_preferences or data.evaluation_source

    def continued(self) -> Self:
        """Go on with the reward model of the run before."""
        return replace(self, copy_model=False)

    def first_params(self, params: dict[str, Array]) -> dict[str, Array]:
        """Begin with the model's writer, and read as the encoder reads text and the decoder reads memory."""
        if not self.copy_model:
            return params
        found = {}
        for path in (path for path in params if path.startswith("reward_model/")):
            own = path.removeprefix("reward_model/")
            of = own.replace("reader/embedding/", "embedding/")
            if of.startswith("reader/layers/"):
                part = "decoder" if "cross_attention" in of else "encoder"
                of = of.replace("reader", part, 1)
            if of in params and params[of].shape == params[path].shape:
                found[path] = params[of]
        return params | found

    def label_counts(self, batch: PreferenceBatch) -> dict[str, Array]:
        """Count pairs and memory writes."""
        answers = answers_of(batch)
        writes = jnp.any(answers.interaction.previous_valid & answers.valid, axis=1)
        return {"pairs": jnp.sum(answers.paired, dtype=jnp.float32), "writes": jnp.sum(writes, dtype=jnp.float32)}

    def objective(
        self, model: Any, batch: PreferenceBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score the pairs of whole episodes. Without a key, where it measures, also with memory zeroed and of another
        conversation."""
        judge, answers = require_reward_model(model), answers_of(batch)
        memory = beginning_memory(judge, answers.ids.shape[1], key)
        numbered = _Numbered(answers, jnp.arange(len(answers.ids)))
        loss, (memory, metrics) = scan_interactions(
            functools.partial(self._interaction_objective, counts=counts, interactions=len(answers.ids)),
            judge,
            memory,
            numbered,
            key,
            memory_gradient_steps=self.memory_gradient_steps,
            remat=self.remat,
        )
        return loss, metrics | {"memory/row_cosine": row_cosine(memory)}

    def _interaction_objective(
        self,
        judge: Any,
        memory: Array,
        numbered: _Numbered,
        key: Key | None,
        *,
        counts: dict[str, Array],
        interactions: int,
    ) -> tuple[Array, tuple[Array, Metrics]]:
        answers = numbered.answers
        learns_to_write = "reward_memory" in self.trainable
        memory, report = write_previous(
            judge, memory, answers.interaction, key, gradient=learns_to_write, balanced=True
        )
        scores = score_side_by_side(judge, memory, answers)
        chosen, rejected = scores[:, 0], scores[:, 1]
        paired = answers.paired.astype(jnp.float32)
        pairs = jnp.sum(paired)
        losses = jnp.sum(reward_pair_losses(chosen, rejected, self.pair) * paired)
        loss = losses / jnp.maximum(counts["pairs"], 1.0)
        loss = loss + self.balance_loss_scale * report.balance / jnp.maximum(counts["writes"], 1.0)
        difference = chosen - rejected
        right = jnp.sum((difference > 0) * paired)
        metrics = {
            "score/loss": (losses, pairs),
            "score/accuracy": (right, pairs),
            "score/margin": (jnp.sum(difference * paired), pairs),
            # How sure it is that it is right. A calibrated model is as sure as it is often right.
            "score/confidence": (jnp.sum(jax.nn.sigmoid(jnp.abs(difference)) * paired), pairs),
            "score/chosen": (jnp.sum(chosen * paired), pairs),
            "score/rejected": (jnp.sum(rejected * paired), pairs),
        }
        for place in range(interactions):
            here = numbered.number == place
            metrics[f"score/accuracy/interaction_{place}"] = (jnp.where(here, right, 0.0), jnp.where(here, pairs, 0.0))
        if key is None:
            # The memory of another row; a single row has no other.
            spoilt = {"zeroed": jnp.zeros_like(memory), "shuffled": jnp.roll(memory, 1, axis=1)}
            for name, other in spoilt.items():
                found = score_side_by_side(judge, other, answers)
                metrics[f"score/accuracy_{name}"] = (jnp.sum((found[:, 0] > found[:, 1]) * paired), pairs)
        return loss, (memory, metrics | report.metrics(answers.interaction))


def score_side_by_side(judge: Any, memory: Array, answers: Answers) -> Array:
    """Score the k answers of every row, `[B k]`, with the memory `[L B S D]` that they share; 0 where none has any."""
    rows, kinds, length = answers.ids.shape

    def read(memory: Array) -> Array:
        flat = (rows * kinds, length)
        return judge(answers.ids.reshape(flat), answers.token_mask.reshape(flat), memory).reshape(rows, kinds)

    def skip(memory: Array) -> Array:
        return jnp.zeros((rows, kinds), jnp.float32)

    return jax.lax.cond(jnp.any(answers.paired), read, skip, memory)


def require_reward_model(model: Any) -> Any:
    """Return the reward model of a model, or say that it has none."""
    if model.config.reward_model is None:
        raise ValueError(
            "this model has no reward model: set model.reward_model to RewardModelConfig(), and train it with a stage "
            "RewardModeling before anything is rewarded by it."
        )
    return model.reward_model
