"""Replay: good episodes are learnt from again, scored anew each time.

An episode is a row. The buffer is part of the stage's carry, so that a run that goes on has the one it would have
had. Source: docs/method.md §19.8.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.types import Array

__all__ = ["Replay", "ReplayConfig", "choose_replay", "empty_replay", "episode_scores", "next_replay", "with_replay"]


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """A buffer of earlier episodes."""

    size: int
    """Episodes that it holds."""
    update_size: int
    """Episodes that each update exchanges."""
    max_age: int = 3
    """Updates after which an episode leaves, if there are enough others."""

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.update_size <= self.size:
            raise ValueError(f"replay needs 1 ≤ update_size ≤ size, got {self.update_size} and {self.size}.")
        if self.max_age < 1:
            raise ValueError(f"max_age must be at least 1 update, got {self.max_age}.")


class Replay(NamedTuple):
    """The episodes that are kept, rows of a trajectory, with their scores and how many updates they have been kept;
    −1 marks an empty place."""

    episodes: Trajectory
    scores: Array  # float32 [N]
    ages: Array  # int32 [N]

    @property
    def is_filled(self) -> Array:
        return self.ages >= 0


def episode_scores(rewards: Array, counted: Array) -> Array:
    """Score episodes `[E]` of rewards `[E I B]`: the mean over interactions of mean − spread over their B answers.

    The spread is unbiased, 0 for a single answer. What is not `counted` has no say.
    """
    number = jnp.sum(counted, axis=-1)
    mean = jnp.sum(jnp.where(counted, rewards, 0.0), axis=-1) / jnp.maximum(number, 1)
    squares = jnp.sum(jnp.where(counted, (rewards - mean[..., None]) ** 2, 0.0), axis=-1)
    worth = mean - jnp.sqrt(squares / jnp.maximum(number - 1, 1))
    return jnp.sum(jnp.where(number > 0, worth, 0.0), axis=-1) / jnp.maximum(jnp.sum(number > 0, axis=-1), 1)


def choose_replay(config: ReplayConfig, scores: Array, ages: Array, new_scores: Array) -> tuple[Array, Array]:
    """Choose what the buffer holds next: for every place a number in (buffer, new episodes), and its age.

    Places are given up in this order: empty ones, those that are too old, the worst of the rest; inside each the
    lowest score first. The best new episodes take them.
    """
    filled = ages >= 0
    older = jnp.where(filled, ages + 1, -1)
    too_old = filled & (older >= config.max_age)
    kind = jnp.where(~filled, 0, jnp.where(too_old, 1, 2))
    rank = jnp.argsort(jnp.lexsort((scores, kind)))
    free = jnp.where(jnp.any(filled), config.update_size, config.size)
    given_up = rank < jnp.maximum(free, jnp.sum(~filled))
    best = jnp.argsort(-new_scores, stable=True)
    taken = given_up & (rank < len(new_scores))
    number = best[jnp.minimum(rank, len(new_scores) - 1)]
    source = jnp.where(taken, len(ages) + number, jnp.arange(len(ages)))
    return source, jnp.where(taken, 0, older)


def empty_replay(config: ReplayConfig, episodes: Any) -> Replay:
    """Make an empty buffer for episodes like these (arrays or their shapes; rows on axis 1)."""

    def room(leaf: Any) -> Array:
        return jnp.zeros((leaf.shape[0], config.size, *leaf.shape[2:]), leaf.dtype)

    return Replay(
        jax.tree.map(room, episodes), jnp.zeros(config.size, jnp.float32), jnp.full(config.size, -1, jnp.int32)
    )


def next_replay(config: ReplayConfig, replay: Replay, episodes: Any, new_scores: Array) -> Replay:
    """Exchange episodes: `episodes` are new rows, best first in demand."""
    source, ages = choose_replay(config, replay.scores, replay.ages, new_scores)

    def pick(old: Array, new: Array, axis: int) -> Array:
        return jnp.take(jnp.concatenate([old, new], axis=axis), source, axis=axis)

    kept = jax.tree.map(lambda old, new: pick(old, new, 1), replay.episodes, episodes)
    return Replay(kept, pick(replay.scores, new_scores, 0), ages)


def with_replay(made: Trajectory, replay: Replay, *, is_empty: bool = False) -> Trajectory:
    """Put replayed episodes behind the new rows; an empty place is a row without an interaction."""
    there = jnp.zeros_like(replay.is_filled) if is_empty else replay.is_filled
    kept = replay.episodes
    kept = kept._replace(valid=kept.valid & there, answered=kept.answered & there, done=kept.done & there)
    return jax.tree.map(lambda new, old: jnp.concatenate([new, old], axis=1), made, kept)
