"""A budget for how far the policy goes from its reference: the weight of that divergence follows what is measured.

    divergence above the budget ──▶ weight grows          below ──▶ weight shrinks

Source: docs/method.md, eq. 133g.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from rxt_jax.losses.policy_gradient import kl_estimate
from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.types import Array

__all__ = ["KlBudget", "drawn_divergence", "next_weight"]

_LARGEST_ERROR = 0.2


@dataclass(frozen=True, kw_only=True)
class KlBudget:
    """How far the policy may be from the reference. The weight begins as the policy's `reference_weight`."""

    target: float = 0.05
    """The divergence per token that is aimed at, in nats."""
    rate: float = 0.1
    """How fast the weight follows: an update changes it by at most a fifth of this share."""
    lowest: float = 1e-4
    """The weight is never below this, or it could not grow again."""
    highest: float = 10.0
    """The weight is never above this."""

    def __post_init__(self) -> None:
        if self.target <= 0.0:
            raise ValueError(f"target must be above 0, got {self.target}: it is the divergence that is allowed.")
        if not 0.0 < self.rate < 5.0:
            raise ValueError(f"rate must lie in (0, 5), got {self.rate}: the weight would change its sign.")
        if not 0.0 < self.lowest <= self.highest:
            raise ValueError(f"expected 0 < lowest ≤ highest, got {self.lowest} and {self.highest}.")


def drawn_divergence(made: Trajectory) -> Array:
    """Estimate KL(policy ‖ reference) per token from what the policy drew, by k3, which is never negative."""
    mask = made.action_mask & made.answered[..., None]
    each = kl_estimate("k3", made.old_log_probs, made.reference_log_probs)
    return jnp.sum(jnp.where(mask, each, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def next_weight(budget: KlBudget, weight: Array, divergence: Array) -> Array:
    """Move the weight by the relative error of the divergence, which is held within ±0.2."""
    error = jnp.clip(divergence / budget.target - 1.0, -_LARGEST_ERROR, _LARGEST_ERROR)
    return jnp.clip(weight * (1.0 + budget.rate * error), budget.lowest, budget.highest)
