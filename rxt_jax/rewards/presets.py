"""Rewards that were published or that are good to begin with, as configs."""

from dataclasses import replace

from rxt_jax.rewards.format_reward import FormatReward
from rxt_jax.rewards.retention import RetentionReward
from rxt_jax.rewards.reward import Reward
from rxt_jax.rewards.reward_sum import LearnedReward, RewardSum, RewardTerm

__all__ = [
    "annealed_retention",
    "learned_and_retention",
    "learned_only",
    "mrq_score",
    "published_retention",
    "with_held_out",
]


def published_retention(scale: float = 1.0) -> RetentionReward:
    """Return the reward of the first published experiments; their figures are on a `scale` of 10."""
    four = (0.2, 0.2, 0.3, 0.3)
    return RetentionReward(
        bleu_factor=0.4,
        cosine_factor=0.5,
        length_factor=0.1,
        negative_bleu_factor=0.45,
        negative_cosine_factor=0.45,
        bleu_references="separate",
        bleu_answer_weights=four,
        bleu_saved_weights=four,
        bleu_answer_factor=0.4,
        bleu_saved_factor=0.6,
        negative_bleu_answer_factor=0.3,
        negative_bleu_saved_factor=0.7,
        cosine_answer_factor=0.35,
        cosine_saved_factor=0.65,
        negative_cosine_answer_factor=0.3,
        negative_cosine_saved_factor=0.7,
        punish_longer=True,
        scale=scale,
    )


def mrq_score() -> RetentionReward:
    """Return the score of the memory retention benchmark as it was published, on a scale to 10."""
    return RetentionReward(
        bleu_factor=0.65,
        cosine_factor=0.15,
        length_factor=0.2,
        bleu_references="separate",
        bleu_answer_weights=(0.25,) * 4,
        bleu_saved_weights=(0.25,) * 4,
        punish_longer=True,
        scale=10.0,
    )


def learned_only(faults: float = 0.1) -> RewardSum:
    """Return the score of a reward model, standardised, with `faults` times the faults of form."""
    return RewardSum(terms=(RewardTerm(reward=LearnedReward(), standardise=True), _faults(faults)))


def learned_and_retention(learned: float = 0.5, retention: float = 0.5, faults: float = 0.1) -> RewardSum:
    """Return quality and retention, both standardised, with `faults` times the faults of form."""
    return RewardSum(
        terms=(
            RewardTerm(reward=LearnedReward(), weight=learned, standardise=True),
            RewardTerm(reward=published_retention(), weight=retention, standardise=True),
            _faults(faults),
        )
    )


def annealed_retention(updates: int, faults: float = 0.1) -> RewardSum:
    """Return the same, beginning with retention alone and ending after `updates` with quality alone."""
    learned, retention, form = learned_and_retention(faults=faults).terms
    return RewardSum(
        terms=(
            replace(learned, schedule=((0, 0.0), (updates, 1.0))),
            replace(retention, schedule=((0, 1.0), (updates, 0.0))),
            form,
        )
    )


def with_held_out(reward: Reward, held_out: Reward) -> RewardSum:
    """Return a reward beside which another one is reported, as `held_out/total`, and never learnt from.

    A reward that rises while one that nobody optimises falls is being gamed.
    """
    terms = reward.terms if isinstance(reward, RewardSum) else (RewardTerm(reward=reward),)
    watched = RewardTerm(reward=held_out, weight=0.0, label="held_out", not_finite="leave_out")
    return RewardSum(terms=(*terms, watched))


def _faults(weight: float) -> RewardTerm:
    return RewardTerm(reward=FormatReward(overlong=1.0), weight=weight)
