"""Several rewards as one: weights that may change over training, standardisation, and what is not finite.

Source: docs/method.md, eq. 127h.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from rxt_jax.rewards.reward import Reward, RewardContext, RewardInput, RewardResult, require
from rxt_jax.types import Array

__all__ = ["LearnedReward", "RewardSum", "RewardTerm"]

_REMEDY = "A stage that leads conversations computes it by the model's reward model (model.reward_model)."


@dataclass(frozen=True, kw_only=True)
class LearnedReward(Reward):
    """The score of a reward model, which the stage computes because it reads memory."""

    name = "learned"

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Hand the score on."""
        score = require(given.learned, self.name, "given.learned", _REMEDY)
        return score, {"learned/score": score}, carry


@dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """One reward of a sum."""

    reward: Reward
    """What is weighed."""
    weight: float = 1.0
    """What it is multiplied by."""
    schedule: tuple[tuple[int, float], ...] = ()
    """(update, weight) pairs with lines between them, in place of `weight`."""
    standardise: bool = False
    """Subtract the batch's mean and divide by its standard deviation before weighing: terms of different size compare.

    A batch whose rewards are all the same gives 0."""
    clip: tuple[float, float] | None = None
    """Bounds, after standardising."""
    not_finite: Literal["skip", "leave_out"] = "skip"
    """What happens to a row whose reward is not finite: the row does not count, or only this term of it."""
    label: str = ""
    """What its components are called by (empty: the reward's name)."""

    def __post_init__(self) -> None:
        updates = [update for update, _ in self.schedule]
        if updates != sorted(set(updates)):
            raise ValueError(f"schedule must name each update once, in order, got updates {updates}.")
        if self.not_finite not in ("skip", "leave_out"):
            raise ValueError(f"not_finite must be 'skip' or 'leave_out', got {self.not_finite!r}.")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must be (lowest, highest), got {self.clip}.")

    @property
    def place(self) -> str:
        """What its components are called by."""
        return self.label or self.reward.name

    def weight_at(self, update: Array | int) -> Array:
        """Give the weight after so many updates."""
        if not self.schedule:
            return jnp.float32(self.weight)
        updates, weights = zip(*self.schedule, strict=True)
        return jnp.interp(jnp.float32(update), jnp.array(updates, jnp.float32), jnp.array(weights, jnp.float32))


@dataclass(frozen=True, kw_only=True)
class RewardSum(Reward):
    """The weighted sum of rewards; components of all of them are reported, and each term's total as `LABEL/total`."""

    name = "sum"

    terms: tuple[RewardTerm, ...]
    """What is summed."""

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms must hold at least one RewardTerm.")
        places = [term.place for term in self.terms]
        doubled = sorted({place for place in places if places.count(place) > 1})
        if doubled:
            raise ValueError(f"terms need labels of their own, got {', '.join(doubled)} more than once.")

    def first_carry(self, rows: int, context: RewardContext) -> tuple:
        """Carry what every term carries."""
        return tuple(term.reward.first_carry(rows, context) for term in self.terms)

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Add up the terms; a row that a term skips is not finite here either."""
        total, components, moved = jnp.zeros(given.valid.shape, jnp.float32), {}, []
        for term, own in zip(self.terms, carry, strict=True):
            result = term.reward(given, context, own)
            moved.append(result.carry)
            value = _standardised(result) if term.standardise else result.total
            value = value if term.clip is None else jnp.clip(value, *term.clip)
            instead = jnp.nan if term.not_finite == "skip" else 0.0
            value = jnp.where(result.counted | ~given.valid, value, instead)
            total += term.weight_at(context.update) * value
            parts = {f"{term.place}/{key.partition('/')[2]}": part for key, part in result.components.items()}
            components |= parts | {f"{term.place}/total": result.total}
        return total, components, tuple(moved)


def _standardised(result: RewardResult) -> Array:
    """Standardise over the rows that count."""
    count = jnp.maximum(jnp.sum(result.counted), 1)
    mean = jnp.sum(result.total) / count  # rows that do not count are 0
    deviation = jnp.where(result.counted, result.total - mean, 0.0)
    return deviation / jnp.sqrt(jnp.sum(deviation**2) / count + 1e-8)
