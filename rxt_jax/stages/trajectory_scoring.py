"""Scoring trajectories as a model finds them now: log-probabilities of what was drawn, and values of the states.

Source: docs/method.md §19.6 and §19.7.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rxt_jax.model.episode import scan_memories
from rxt_jax.stages.trajectory import Step, Trajectory, critic_text, first_memory, read_and_score, split_steps
from rxt_jax.types import Array, Key

__all__ = ["CriticFit", "critic_values", "score_trajectory"]


@dataclass(frozen=True, kw_only=True)
class CriticFit:
    """How the critic is fitted."""

    weight: float = 1.0
    """Weight of its loss."""
    bound: float | None = 20.0
    """Bound of values and returns in the loss, None for none."""
    clip: float | None = None
    """How far a value may move from that of the rollout before its loss stops falling, None for any distance."""
    length: int | None = None
    """How many tokens of (interaction before, query) it reads, None for all."""
    copy_encoder: bool = True
    """Whether it begins as a copy of the encoder. False: it goes on as it is, in the later runs of a curriculum."""


def critic_values(model: Any, memory: Array, step: Step, fit: CriticFit) -> Array:
    """Say what the state before the answers is worth, `[B]`; no gradient reaches memory."""
    config = model.config.critic
    width = fit.length or (2 + config.with_first) * step.interaction.ids.shape[-1]
    ids, mask = critic_text(step, width, with_first=config.with_first)
    return model.value(ids, mask, jax.lax.stop_gradient(memory))


def score_trajectory(
    model: Any, made: Trajectory, *, critic: CriticFit | None = None, clamp: float | None = None
) -> dict[str, Array]:
    """Score all answers with a memory chain of the model's own: `log_probs [I B A]`, by a critic `values [I B]`."""

    def read(model: Any, memory: Array, step: Step, _: Key | None) -> tuple[Array, tuple[Array, Any]]:
        answered = read_and_score(model, memory, step, clamp=clamp, gradient=False)
        found = {"log_probs": answered.scores.log_probs}
        if critic is not None:
            found["values"] = critic_values(model, answered.memory, step, critic)
        return jnp.float32(0.0), (answered.memory, found)

    _, found = scan_memories(read, model, first_memory(model, made), split_steps(made), None, remat="none")
    return {name: jnp.asarray(leaf) for name, leaf in found.items()}
