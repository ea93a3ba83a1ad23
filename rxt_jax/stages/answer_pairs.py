"""Log-probabilities of answers to one query as pairs with those of a reference, and what is measured of them.

Arrays are `[I B]` and `[I B k]`: chosen, rejected, and neutral where wanted. Source: docs/method.md §16.1 and §16.6.
"""

import jax
import jax.numpy as jnp

from rxt_jax.losses.preference import PairLogProbs, PreferenceConfig, preference_losses, preference_metrics
from rxt_jax.losses.sequence_log_probs import LogProbReduction, SequenceLogProbs
from rxt_jax.stages.answer_scoring import Answers
from rxt_jax.types import Array, Metrics

__all__ = ["answer_pairs", "answer_sums", "by_interaction", "neutral_drift"]


def answer_pairs(policy: SequenceLogProbs, frozen: Array, reduction: LogProbReduction) -> PairLogProbs:
    """Put chosen and rejected answers of the policy and of the reference together; `frozen` are the latter's sums."""
    (chosen, rejected), reference = _first_two(policy.reduced(reduction)), _reference(policy, frozen).reduced(reduction)
    return PairLogProbs(chosen, rejected, *_first_two(reference), *_first_two(policy.length))


def neutral_drift(policy: SequenceLogProbs, frozen: Array, anchored: Array, reduction: LogProbReduction) -> Array:
    """Say how far the policy is from the reference for neutral answers, `[I B]`; 0 where there is none."""
    drift = policy.reduced(reduction)[..., 2] - _reference(policy, frozen).reduced(reduction)[..., 2]
    # Without a drift there is no direction: the derivative of |x| at 0 is taken as 0 (JAX: 1).
    return jnp.where(anchored & (drift != 0.0), jnp.abs(drift), 0.0)


def answer_sums(
    policy: SequenceLogProbs,
    frozen: Array,
    answers: Answers,
    losses: tuple[tuple[PreferenceConfig, float], ...],
    reduction: LogProbReduction,
) -> Metrics:
    """Measure all answers: sums and counts `[I]`."""
    pair, lengths, reduced = answer_pairs(policy, frozen, reduction), policy.length, policy.reduced(reduction)
    paired = answers.paired.astype(jnp.float32)
    means = policy.reduced("mean")
    rows = {
        "preference/loss": jax.vmap(lambda pair: preference_losses(pair, losses))(pair),
        **preference_metrics(pair, losses[0][0].beta),
        "logps/chosen": policy.total[..., 0],
        "logps/rejected": policy.total[..., 1],
        "logps/chosen_mean": means[..., 0],
        "logps/rejected_mean": means[..., 1],
        "logps/raw_accuracy": (reduced[..., 0] > reduced[..., 1]).astype(jnp.float32),
        # An estimate of KL(π ‖ π_ref) from answers that the policy did not draw: a measure of drift.
        "kl/chosen": policy.total[..., 0] - frozen[..., 0],
        "length/chosen": lengths[..., 0],
        "length/rejected": lengths[..., 1],
    }
    sums = {name: (jnp.sum(jnp.where(answers.paired, x, 0.0), 1), jnp.sum(paired, 1)) for name, x in rows.items()}
    sums["nll/chosen"] = (-jnp.sum(policy.total[..., 0], 1), jnp.sum(lengths[..., 0], 1))
    if policy.total.shape[-1] > 2:
        drift = neutral_drift(policy, frozen, answers.anchored, reduction)
        sums["anchor"] = (jnp.sum(drift, 1), jnp.sum(answers.anchored, 1, dtype=jnp.float32))
    return sums


def by_interaction(sums: Metrics) -> Metrics:
    """Give sums and counts `[I]` as totals, and one by one as `name/interaction_i`."""
    found = {name: (jnp.sum(total), jnp.sum(count)) for name, (total, count) in sums.items()}
    for name, (total, count) in sums.items():
        found |= {f"{name}/interaction_{i}": (total[i], count[i]) for i in range(len(total))}
    return found


def _reference(policy: SequenceLogProbs, frozen: Array) -> SequenceLogProbs:
    return SequenceLogProbs(frozen, policy.length)


def _first_two(answers: Array) -> tuple[Array, Array]:
    return answers[..., 0], answers[..., 1]
