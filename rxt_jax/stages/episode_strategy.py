"""What each answer of an episode is rewarded for: a mode per interaction, and the interaction that it is held against.

    single step   0 ─▶ 1                         the only answer, against the interaction before
    multi step    0 ─▶ 1 ─▶ 2 ─▶ … ─▶ n          every answer, against the interaction before
    long range    0 ─▶ 1 (another topic) ─▶ … ─▶ n (back)     leaving is rewarded, then going on, then coming back to 0

Interaction 0 is written and not answered. Source: docs/method.md §19.7.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from rxt_jax.rewards import MODES
from rxt_jax.types import Array

__all__ = ["EpisodeStrategy", "StepMode", "StepPlan", "StrategyName", "make_strategy"]

StepMode = Literal["standard", "negative", "long_range", "cumulative", "none"]
"""The modes of a reward (`rewards.MODES`), the mean of the standard reward against every earlier interaction, and no
reward."""

StrategyName = Literal["single_step", "multi_step", "long_range", "cumulative_retention", "long_term_retention"]


class StepPlan(NamedTuple):
    """How the answers of one interaction are rewarded, `[B]` each.

    `mode` is the number of the reward's mode, `saved` the interaction that the answer is held against, `history` the
    one before that, −1 where there is none yet.
    """

    mode: Array
    saved: Array
    history: Array
    is_rewarded: Array
    is_cumulative: Array


@dataclass(frozen=True, kw_only=True)
class EpisodeStrategy:
    """The table of modes, by the place of an answer in its episode."""

    first: StepMode = "standard"
    """The mode of the first answer, if it is not the last one."""
    middle: StepMode = "standard"
    """The mode of the answers between."""
    last: StepMode = "standard"
    """The mode of the last answer. "long_range" is held against interaction 0."""
    saved_lag: int = 1
    """How many interactions back an answer is held against, never before interaction 0."""
    history_after_negative: bool = False
    """Whether the second answer has a history where the first one had to leave the topic; published: no."""

    def __post_init__(self) -> None:
        for name in ("first", "middle", "last"):
            if getattr(self, name) not in get_args(StepMode):
                raise ValueError(f"{name} must be one of {', '.join(get_args(StepMode))}, got {getattr(self, name)!r}.")
        if self.saved_lag < 1:
            raise ValueError(f"saved_lag must be at least 1, got {self.saved_lag}: an answer is held against its past.")
        if {self.first, self.middle, self.last} == {"none"}:
            raise ValueError(
                "a strategy must reward something: one of first, middle and last is to differ from 'none'."
            )

    @property
    def modes(self) -> frozenset[str]:
        """Every mode that occurs."""
        return frozenset((self.first, self.middle, self.last))

    def step(self, number: Array, is_last: Array) -> StepPlan:
        """Say how answers to interaction `number` (from 1) are rewarded; `is_last [B]` is by row."""
        is_first = number == 1

        def table(values: dict[str, int]) -> Array:
            first, middle, last = (values.get(getattr(self, place), 0) for place in ("first", "middle", "last"))
            return jnp.where(is_last, last, jnp.where(is_first, first, middle)).astype(jnp.int32)

        mode = table({name: place for place, name in enumerate(MODES)})
        returns = table({"long_range": 1}) > 0
        saved = jnp.where(returns, 0, jnp.maximum(number - self.saved_lag, 0))
        history = number - jnp.where(returns, 1, self.saved_lag) - 1
        late = self.first == "negative" and not self.history_after_negative
        history = jnp.where(is_first | (late & (number == 2)), -1, jnp.maximum(history, -1))
        return StepPlan(
            mode,
            jnp.broadcast_to(saved, is_last.shape).astype(jnp.int32),
            jnp.broadcast_to(history, is_last.shape).astype(jnp.int32),
            table({"none": 1}) == 0,
            table({"cumulative": 1}) > 0,
        )


def make_strategy(name: StrategyName) -> EpisodeStrategy:
    """Give a strategy by name.

    The last two are those of the first description of memory reinforcement: a delayed reward for all that was said
    before beside the immediate ones, and a reward for the last answer alone.
    """
    strategies = {
        "single_step": EpisodeStrategy(),
        "multi_step": EpisodeStrategy(),
        "long_range": EpisodeStrategy(first="negative", last="long_range"),
        "cumulative_retention": EpisodeStrategy(last="cumulative"),
        "long_term_retention": EpisodeStrategy(first="none", middle="none", last="long_range"),
    }
    if name not in strategies:
        raise ValueError(f"strategy must be one of {', '.join(strategies)}, got {name!r}.")
    return strategies[name]
