"""Losses as free functions that return sums and counts."""

from rxt_jax.losses.advantages import AdvantageConfig, estimate_advantages
from rxt_jax.losses.algorithms import Algorithm, AlgorithmName, make_algorithm
from rxt_jax.losses.cross_entropy import (
    TokenLoss,
    answer_cross_entropy,
    projected_answer_cross_entropy,
    projected_cross_entropy,
    token_cross_entropy,
)
from rxt_jax.losses.memory_policy import MemoryPolicyConfig, policy_loss
from rxt_jax.losses.memory_targets import (
    cosine_by_row,
    fit_to_slots,
    memory_targets,
    new_weight,
    shifted_weights,
)
from rxt_jax.losses.policy_gradient import SurrogateConfig, kl_estimate, surrogate_loss
from rxt_jax.losses.preference import PairLogProbs, PreferenceConfig, preference_losses, preference_metrics
from rxt_jax.losses.reward_pairs import RewardPairConfig, reward_pair_losses
from rxt_jax.losses.sequence_log_probs import (
    LogProbReduction,
    SequenceLogProbs,
    projected_sequence_log_probs,
    sequence_log_probs,
    shared_length_weights,
)
from rxt_jax.losses.token_log_probs import (
    TokenLogProbs,
    next_token_log_probs,
    next_token_loss,
    projected_token_log_probs,
    projected_token_loss,
    token_log_probs,
)

__all__ = [
    "AdvantageConfig",
    "Algorithm",
    "AlgorithmName",
    "LogProbReduction",
    "MemoryPolicyConfig",
    "PairLogProbs",
    "PreferenceConfig",
    "RewardPairConfig",
    "SequenceLogProbs",
    "SurrogateConfig",
    "TokenLogProbs",
    "TokenLoss",
    "answer_cross_entropy",
    "cosine_by_row",
    "estimate_advantages",
    "fit_to_slots",
    "kl_estimate",
    "make_algorithm",
    "memory_targets",
    "new_weight",
    "next_token_log_probs",
    "next_token_loss",
    "policy_loss",
    "preference_losses",
    "preference_metrics",
    "projected_answer_cross_entropy",
    "projected_cross_entropy",
    "projected_sequence_log_probs",
    "projected_token_log_probs",
    "projected_token_loss",
    "reward_pair_losses",
    "sequence_log_probs",
    "shared_length_weights",
    "shifted_weights",
    "surrogate_loss",
    "token_cross_entropy",
    "token_log_probs",
]
