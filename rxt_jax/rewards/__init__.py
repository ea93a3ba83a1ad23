"""Rewards as pure functions of ids: retention, format, planted facts, functions of one's own, and sums of them."""

from rxt_jax.rewards.abstention_reward import AbstentionReward
from rxt_jax.rewards.context import embedding_table, make_reward_context
from rxt_jax.rewards.fact_reward import FactReward
from rxt_jax.rewards.format_reward import FormatReward
from rxt_jax.rewards.function_reward import FunctionReward
from rxt_jax.rewards.overlap import NewContentReward, RougeReward
from rxt_jax.rewards.planted_facts import EncodedFacts, annotated_values, encode_facts
from rxt_jax.rewards.presets import (
    annealed_retention,
    learned_and_retention,
    learned_only,
    mrq_score,
    published_retention,
    with_held_out,
)
from rxt_jax.rewards.retention import RetentionReward
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
from rxt_jax.rewards.reward_sum import LearnedReward, RewardSum, RewardTerm

__all__ = [
    "LONG_RANGE",
    "MODES",
    "NEGATIVE",
    "STANDARD",
    "AbstentionReward",
    "EncodedFacts",
    "FactReward",
    "Facts",
    "FormatReward",
    "FunctionReward",
    "LearnedReward",
    "NewContentReward",
    "RetentionReward",
    "Reward",
    "RewardContext",
    "RewardInput",
    "RewardResult",
    "RewardSum",
    "RewardTerm",
    "RougeReward",
    "Tokens",
    "annealed_retention",
    "annotated_values",
    "embedding_table",
    "encode_facts",
    "learned_and_retention",
    "learned_only",
    "make_reward_context",
    "mrq_score",
    "published_retention",
    "with_held_out",
]
