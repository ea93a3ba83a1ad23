"""The loss of a reward model: of two answers the chosen one is to get the higher score.

Source: docs/method.md §19.10.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["RewardPairConfig", "reward_pair_losses"]


@dataclass(frozen=True, kw_only=True)
class RewardPairConfig:
    """How pairs of scores are compared (Bradley-Terry)."""

    margin: float = 0.0
    """By how much a chosen answer is to be above the rejected one."""
    centring: float = 0.01
    """Weight of (r_w + r_l)², which keeps scores near 0: pairs alone leave open where scores lie."""
    label_smoothing: float = 0.0
    """Share of pairs in [0, 0.5) that are taken to be swapped."""

    def __post_init__(self) -> None:
        if self.margin < 0.0 or self.centring < 0.0:
            raise ValueError(f"margin and centring must not be negative, got {self.margin} and {self.centring}.")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}.")


def reward_pair_losses(
    chosen: Float[Array, "*B"], rejected: Float[Array, "*B"], config: RewardPairConfig
) -> Float[Array, "*B"]:
    """Give every pair of scores its loss, float32. Source: docs/method.md, eq. 133h."""
    chosen, rejected = chosen.astype(jnp.float32), rejected.astype(jnp.float32)
    logit = chosen - rejected - config.margin
    smoothing = config.label_smoothing
    kept = -(1.0 - smoothing) * jax.nn.log_sigmoid(logit) - smoothing * jax.nn.log_sigmoid(-logit)
    return kept + config.centring * (chosen + rejected) ** 2
