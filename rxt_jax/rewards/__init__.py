"""Rewards as pure functions of ids: retention, format, planted facts, functions of one's own, and sums of them."""

from rxt_jax.rewards.reward import (
    LONG_RANGE,
    MODES,
    NEGATIVE,
    STANDARD,
    Facts,
    Reward,
    RewardContext,
    RewardInput,
    RewardResult,
    Tokens,
)

__all__ = [
    "LONG_RANGE",
    "MODES",
    "NEGATIVE",
    "STANDARD",
    "Facts",
    "Reward",
    "RewardContext",
    "RewardInput",
    "RewardResult",
    "Tokens",
]
