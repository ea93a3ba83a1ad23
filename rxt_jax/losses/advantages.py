"""Advantages: by how much an answer was worth more than what was expected.

Time counts interactions, never tokens: all tokens of an answer share its advantage. Every function works on
`[I B]`, interaction by interaction, row by row; what `valid` leaves out is passed over as if it were not there.
Source: docs/method.md §19.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = [
    "ADVANTAGES",
    "AdvantageConfig",
    "AdvantageInput",
    "AdvantageKind",
    "AdvantageNormalisation",
    "Advantages",
    "GroupSpread",
    "estimate_advantages",
    "generalised_advantages",
    "group_advantages",
    "multi_objective_advantages",
    "normalise_advantages",
    "returns_to_go",
]

AdvantageKind = Literal["reward_minus_value", "gae", "reward", "grpo", "grpo_batch", "dr_grpo", "rloo"]
"""How an advantage is told, see `ADVANTAGES`."""

AdvantageNormalisation = Literal["none", "all", "interaction", "published_batch", "published_step"]
"""Over what advantages get mean 0 and spread 1: nothing; all of them (unbiased spread); the rows of each interaction
(population spread, at most ±10). The published two are for parity: `published_batch` takes the population of all
interactions but the last ones, which it leaves as they are; `published_step` is `interaction` with 0 for the last."""

GroupSpread = Literal["sample", "population"]
"""Whether the spread of n numbers divides by n − 1 or by n."""

_LARGEST = 10.0  # published bound of normalised advantages


class Advantages(NamedTuple):
    """Advantages, and what a critic is fitted to, `[I B]` each; both 0 where nothing is valid."""

    advantages: Float[Array, "I B"]
    returns: Float[Array, "I B"]


class AdvantageInput(NamedTuple):
    """What advantages are made of. `done` marks the last interaction of a row's episode."""

    rewards: Float[Array, "I B"]
    values: Float[Array, "I B"]
    done: Bool[Array, "I B"]
    valid: Bool[Array, "I B"]


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """Which advantage, and how it is normalised."""

    kind: AdvantageKind = "reward_minus_value"
    """What an answer is compared with."""
    discount: float = 0.99
    """γ of eq. 128 (docs/method.md). Without a critic it says what an answer is credited with: its own reward (0), or
    also the later ones of its episode, γ per interaction."""
    trace: float = 0.95
    """λ of eq. 128."""
    normalisation: AdvantageNormalisation = "all"
    """Over what advantages get mean 0 and spread 1."""
    spread: GroupSpread = "sample"
    """Whether the spread of group-relative advantages (eq. 129) is that of a sample."""
    eps: float = 1e-4
    """What is added to that spread."""

    def __post_init__(self) -> None:
        for name, known in (("kind", AdvantageKind), ("normalisation", AdvantageNormalisation)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}.")
        for name in ("discount", "trace"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.eps <= 0.0:
            raise ValueError(f"eps must be positive, got {self.eps}: a group of equal rewards has no spread.")

    @property
    def needs_values(self) -> bool:
        """Whether a critic has to say what was expected."""
        return self.kind in ("reward_minus_value", "gae")

    @property
    def needs_groups(self) -> bool:
        """Whether answers are compared with others to the same query."""
        return self.kind in ("grpo", "grpo_batch", "dr_grpo", "rloo")


def generalised_advantages(
    given: AdvantageInput, *, discount: float, trace: float, bootstrap: Float[Array, "B"] | None = None
) -> Advantages:
    """Estimate advantages backwards in time, with the returns A + V that the critic learns (eq. 128).

    `bootstrap` is the value behind the last interaction, for episodes that go on there; None: 0. Source:
    docs/method.md, eq. 128.
    """
    zero = jnp.zeros_like(given.values[0])

    def step(carry: tuple[Array, Array], now: AdvantageInput) -> tuple[tuple[Array, Array], Array]:
        following, next_value = carry
        goes_on = 1.0 - now.done.astype(jnp.float32)
        delta = now.rewards + discount * next_value * goes_on - now.values
        found = delta + discount * trace * goes_on * following
        carry = (jnp.where(now.valid, found, following), jnp.where(now.valid, now.values, next_value))
        return carry, jnp.where(now.valid, found, 0.0)

    start = (zero, zero if bootstrap is None else bootstrap)
    _, advantages = jax.lax.scan(step, start, given, reverse=True)
    return Advantages(advantages, jnp.where(given.valid, advantages + given.values, 0.0))


def returns_to_go(given: AdvantageInput, discount: float) -> Float[Array, "I B"]:
    """Add to every reward the later ones of its episode, discounted."""
    nothing_expected = given._replace(values=jnp.zeros_like(given.rewards))
    return generalised_advantages(nothing_expected, discount=discount, trace=1.0).advantages


def normalise_advantages(
    advantages: Float[Array, "I B"],
    valid: Bool[Array, "I B"],
    mode: AdvantageNormalisation,
    done: Bool[Array, "I B"] | None = None,
    *,
    eps: float = 1e-8,
) -> Float[Array, "I B"]:
    """Subtract a mean and divide by a spread; the published modes need `done`. Source: docs/method.md §19.4."""
    if mode == "none":
        return jnp.where(valid, advantages, 0.0)
    if mode == "all":
        mean, spread = _mean_and_spread(advantages, valid, None, sample=True)
        return jnp.where(valid, (advantages - mean) / (spread + eps), 0.0)
    if mode == "interaction":
        mean, spread = _mean_and_spread(advantages, valid, 1, sample=False)
        return jnp.where(valid, jnp.clip((advantages - mean) / (spread + eps), -_LARGEST, _LARGEST), 0.0)
    if done is None:
        raise ValueError(f"normalisation {mode!r} treats last interactions in its own way and needs `done`.")
    if mode == "published_step":
        return jnp.where(done, 0.0, normalise_advantages(advantages, valid, "interaction", eps=eps))
    mean, spread = _mean_and_spread(advantages, valid & ~done, None, sample=False)
    normalised = jnp.clip((advantages - mean) / (spread + eps), -_LARGEST, _LARGEST)
    return jnp.where(valid, jnp.where(done, advantages, normalised), 0.0)


def group_advantages(
    scores: Float[Array, "*N G"],
    kind: AdvantageKind,
    *,
    spread: GroupSpread = "sample",
    eps: float = 1e-4,
    valid: Bool[Array, "*N G"] | None = None,
) -> Float[Array, "*N G"]:
    """Compare the answers of every group, the last axis, with one another. Source: docs/method.md, eq. 129.

    `grpo` divides by the spread of the group, `grpo_batch` by that of all scores, `dr_grpo` by nothing; `rloo`
    subtracts the mean of the others. A group of equal scores, or with one valid answer, gets zeros.
    """
    valid = jnp.ones(scores.shape, bool) if valid is None else valid
    count = jnp.sum(valid, axis=-1, keepdims=True)
    mean = jnp.sum(jnp.where(valid, scores, 0.0), axis=-1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(valid, scores - mean, 0.0)
    if kind == "rloo":
        # r − mean of the others = (r − mean) · n / (n − 1)
        return centred * count / jnp.maximum(count - 1, 1)
    if kind == "dr_grpo":
        return centred
    if kind not in ("grpo", "grpo_batch"):
        raise ValueError(f"{kind!r} compares nothing within a group; use grpo, grpo_batch, dr_grpo or rloo.")
    axis = None if kind == "grpo_batch" else -1
    return centred / (_mean_and_spread(scores, valid, axis, sample=spread == "sample")[1] + eps)


def multi_objective_advantages(
    scores: Float[Array, "N G R"], weights: Float[Array, "R"], *, eps: float = 1e-4
) -> Float[Array, "N G"]:
    """Compare several rewards within the group each, add them by weight, and standardise over the batch.

    So no reward rules by its scale. Source: docs/method.md §19.4.
    """
    each = group_advantages(jnp.moveaxis(scores, -1, 0), "grpo", eps=eps)
    total = jnp.tensordot(weights, each, axes=1)
    mean, spread = _mean_and_spread(total, jnp.ones(total.shape, bool), None, sample=True)
    return (total - mean) / (spread + eps)


def estimate_advantages(config: AdvantageConfig, given: AdvantageInput, group_size: int = 1) -> Advantages:
    """Tell and normalise advantages; rows that answer the same query are neighbours, `group_size` of them."""
    if config.needs_groups and group_size < 2:
        raise ValueError(f"advantage {config.kind!r} compares answers to one query: it needs at least 2, got 1.")
    found = ADVANTAGES[config.kind](config, given, group_size)
    return found._replace(
        advantages=normalise_advantages(found.advantages, given.valid, config.normalisation, given.done)
    )


def _reward_minus_value(config: AdvantageConfig, given: AdvantageInput, group_size: int) -> Advantages:
    rewards = jnp.where(given.valid, given.rewards, 0.0)
    return Advantages(jnp.where(given.valid, given.rewards - given.values, 0.0), rewards)


def _gae(config: AdvantageConfig, given: AdvantageInput, group_size: int) -> Advantages:
    return generalised_advantages(given, discount=config.discount, trace=config.trace)


def _reward(config: AdvantageConfig, given: AdvantageInput, group_size: int) -> Advantages:
    """REINFORCE: returns to go, against nothing but what the normalisation subtracts."""
    returns = returns_to_go(given, config.discount)
    return Advantages(returns, returns)


def _group(config: AdvantageConfig, given: AdvantageInput, group_size: int) -> Advantages:
    """Returns to go, against those of the other answers of the group to the same interaction."""
    returns = returns_to_go(given, config.discount)

    def grouped(leaf: Array) -> Array:
        return leaf.reshape(leaf.shape[0], -1, group_size)

    found = group_advantages(
        grouped(returns), config.kind, spread=config.spread, eps=config.eps, valid=grouped(given.valid)
    )
    return Advantages(found.reshape(returns.shape), returns)


ADVANTAGES: dict[str, Callable[[Any, AdvantageInput, int], Advantages]] = {
    "reward_minus_value": _reward_minus_value,
    "gae": _gae,
    "reward": _reward,
    "grpo": _group,
    "grpo_batch": _group,
    "dr_grpo": _group,
    "rloo": _group,
}
"""Every kind of advantage: `(config, given, group_size) -> Advantages`, before normalisation."""


def _mean_and_spread(x: Array, valid: Array, axis: int | None, *, sample: bool) -> tuple[Array, Array]:
    """Average over valid entries, and their spread; that of a single one is 0."""
    count = jnp.sum(valid, axis=axis, keepdims=True)
    mean = jnp.sum(jnp.where(valid, x, 0.0), axis=axis, keepdims=True) / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(valid, (x - mean) ** 2, 0.0), axis=axis, keepdims=True)
    return mean, jnp.sqrt(squares / jnp.maximum(count - sample, 1))
