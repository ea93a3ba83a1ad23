"""The loss of a policy that answers from memory: PPO and its relatives, and IMPO with its terms for memory.

    L = surrogate − c_H · entropy + c_r · KL(policy ‖ reference)
        + c_s · KL(policy ‖ answer before) + c_M · √i · |M_i − M_{i−1}|² − c_cos · cos(M_i, M_{i−1})

An answer's tokens are `[B A]`. Log-probabilities come from hidden states in chunks, so that the logits of a few
positions exist at a time. Source: docs/method.md §19.3 and §19.5.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.losses.policy_gradient import (
    Aggregation,
    KlEstimator,
    SurrogateConfig,
    aggregate,
    kl_estimate,
    surrogate_loss,
)
from rxt_jax.types import Metrics

__all__ = [
    "AnswerBefore",
    "AnswerScores",
    "MemoryPolicyConfig",
    "PolicyInput",
    "memory_change",
    "policy_loss",
    "score_answers_drawn",
    "shared_places",
]

_PLACES = 64  # positions of a row that are projected together


@dataclass(frozen=True, kw_only=True)
class MemoryPolicyConfig:
    """Weights and definitions of the terms.

    The defaults are IMPO's; `losses.algorithms` has the others.
    """

    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    """The loss of the answers' tokens."""
    aggregation: Aggregation = "sequence_mean"
    """How the tokens of the surrogate are joined."""
    terms: Literal["standard", "published"] = "standard"
    """"standard": entropy and KL to the answer before are means over tokens, that KL over places that both answers
    have. "published" (parity): entropy is a sum over an answer divided by its length and by A, one place past the last
    token included, and the answer before is uniform beyond its end."""
    entropy_weight: float = 0.01
    """Weight of the entropy."""
    reference_weight: float = 0.05
    """Weight of the KL divergence from the reference."""
    reference_estimator: KlEstimator = "k3"
    """How that divergence is estimated from the tokens that were drawn."""
    reference_aggregation: Aggregation | None = None
    """How its tokens are joined, None for the way of the surrogate."""
    consistency_weight: float = 0.01
    """Weight of the KL divergence from the answer before."""
    memory_change_weight: float = 1e-4
    """Weight of the squared change of memory at a write."""
    memory_cosine_weight: float = 0.0
    """Weight of the change of memory by direction."""
    importance_cap: float | None = None
    """c: a token weighs π_old / π_behaviour, at most c, where answers were drawn from another distribution than the
    policy's. None for no weights."""

    def __post_init__(self) -> None:
        for name in ("reference_weight", "consistency_weight", "memory_change_weight", "memory_cosine_weight"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}. Use 0 to switch it off.")
        if self.importance_cap is not None and self.importance_cap <= 0.0:
            raise ValueError(f"importance_cap must be positive, got {self.importance_cap}.")


class AnswerBefore(NamedTuple):
    """The distributions of the answer to the interaction before, place by place, and which places it has."""

    log_probs: Float[Array, "B A V"]
    mask: Bool[Array, "B A"]


class AnswerScores(NamedTuple):
    """What the policy says of an answer's tokens, `[B A]`.

    `consistency` is KL(policy ‖ answer before), 0 without one. `distribution` are the log-probabilities of the whole
    vocabulary where they were asked for.
    """

    log_probs: Float[Array, "B A"]
    entropy: Float[Array, "B A"]
    consistency: Float[Array, "B A"]
    distribution: Float[Array, "B A V"] | None = None


class PolicyInput(NamedTuple):
    """What an answer is held against. `answered` says which rows have one; without a reference its terms are 0.

    `behaviour_log_probs` are those of the distribution that the tokens were drawn from.
    """

    mask: Bool[Array, "B A"]
    answered: Bool[Array, "B"]
    advantages: Float[Array, "B"]
    old_log_probs: Float[Array, "B A"]
    behaviour_log_probs: Float[Array, "B A"] | None = None
    reference_log_probs: Float[Array, "B A"] | None = None
    before: AnswerBefore | None = None


def score_answers_drawn(
    project: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    hidden: Float[Array, "B A D"],
    ids: Int[Array, "B A"],
    mask: Bool[Array, "B A"],
    *,
    before: AnswerBefore | None = None,
    keep_distribution: bool = False,
    clamp: float | None = None,
) -> AnswerScores:
    """Score the tokens of answers from the states that predict them; `hidden[:, j]` predicts `ids[:, j]`.

    The place behind an answer's last token has an entropy as well. `clamp` bounds logits by ±clamp. Chunks that no
    row needs are skipped, unless distributions are kept: those are uniform where there is nothing.
    """
    batch, length = ids.shape
    read = read_mask(mask)
    places = min(_PLACES, length)
    count = -(-length // places)

    def in_chunks(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, count * places - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, count, places, *x.shape[2:]), 1, 0)

    def chunk(carry: None, inputs: tuple) -> tuple[None, AnswerScores]:
        hidden, ids, mask, read, before = inputs

        def score(hidden: Array) -> AnswerScores:
            logits = project(hidden).astype(jnp.float32)
            logits = logits if clamp is None else jnp.clip(logits, -clamp, clamp)
            # Zeroed before: what is not scored passes on no inf or NaN, nor its gradient.
            log_probs = jax.nn.log_softmax(jnp.where(read[..., None], logits, 0.0), axis=-1)
            probabilities = jnp.exp(log_probs)
            picked = jnp.take_along_axis(log_probs, ids[..., None], axis=-1, mode="clip")[..., 0]
            entropy = -jnp.sum(probabilities * log_probs, axis=-1)
            consistency = jnp.zeros_like(entropy)
            if before is not None:
                consistency = jnp.sum(probabilities * (log_probs - before), axis=-1)
            return AnswerScores(
                jnp.where(mask, picked, 0.0),
                jnp.where(read, entropy, 0.0),
                jnp.where(read, consistency, 0.0),
                log_probs if keep_distribution else None,
            )

        def skip(hidden: Array) -> AnswerScores:
            zero = jnp.zeros(ids.shape, jnp.float32)
            return AnswerScores(zero, zero, zero)

        if keep_distribution:
            return carry, score(hidden)
        return carry, jax.lax.cond(jnp.any(read), score, skip, hidden)

    others = None if before is None else in_chunks(before.log_probs)
    inputs = (in_chunks(hidden), in_chunks(ids), in_chunks(mask), in_chunks(read), others)
    _, found = jax.lax.scan(jax.checkpoint(chunk, prevent_cse=False), None, inputs)

    def joined(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, 1)
        return leaf.reshape(batch, count * places, *leaf.shape[3:])[:, :length]

    return jax.tree.map(joined, found)


def read_mask(mask: Bool[Array, "B A"]) -> Bool[Array, "B A"]:
    """Say at which places an answer was at hand when the policy was asked: up to one place behind its last token."""
    return jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)[:, :-1]


def memory_change(
    memory: Float[Array, "L B S D"], before: Float[Array, "L B S D"]
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Return by how much a write moved memory, in mean square, and the mean cosine of its slots with what they were.

    `before` gets no gradient. Source: docs/method.md, eq. 133.
    """
    memory, before = memory.astype(jnp.float32), jax.lax.stop_gradient(before).astype(jnp.float32)
    squares = jnp.mean((memory - before) ** 2, axis=(0, 2, 3))
    norms = _norm(memory) * _norm(before)
    cosine = jnp.mean(jnp.sum(memory * before, axis=-1) / jnp.maximum(norms, 1e-8), axis=(0, 2))
    return squares, cosine


def policy_loss(
    config: MemoryPolicyConfig,
    scores: AnswerScores,
    given: PolicyInput,
    change: tuple[Float[Array, "B"], Float[Array, "B"]] | None = None,
    *,
    number: Int[Array, ""] | int = 1,
    reference_weight: Float[Array, ""] | None = None,
    tokens: Array | None = None,
    sequences: Array | None = None,
    shared: Array | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Add up the terms for the answers of one interaction, the `number`-th that is answered, counted from 1.

    `change` is what `memory_change` says of the write before it. `reference_weight` stands in place of the config's
    where it moves in training. `tokens`, `sequences` and `shared` are the
    denominators of a larger batch that these rows are a part of (see `aggregate`); the last counts the places that are
    compared with the answer before (`shared_places`). Source: docs/method.md, eq. 130 to 133.
    """
    mask, answered = given.mask & given.answered[:, None], given.answered.astype(jnp.float32)
    own = {"tokens": jnp.sum(mask, dtype=jnp.float32), "sequences": jnp.sum(answered)}
    total = {
        "tokens": own["tokens"] if tokens is None else tokens,
        "sequences": own["sequences"] if sequences is None else sequences,
    }

    def mean(values: Array, mode: Aggregation) -> Array:
        return aggregate(values, mask, mode, **total)

    def row_mean(values: Array) -> Array:
        return jnp.sum(jnp.where(given.answered, values, 0.0)) / jnp.maximum(total["sequences"], 1.0)

    surrogate = surrogate_loss(config.surrogate, scores.log_probs, given.old_log_probs, given.advantages, mask)
    token_loss = surrogate.loss
    if config.importance_cap is not None:
        if given.behaviour_log_probs is None:
            raise ValueError(
                "importance_cap weighs by the distribution that was drawn from: give its log-probabilities."
            )
        weight = jnp.minimum(jnp.exp(given.old_log_probs - given.behaviour_log_probs), config.importance_cap)
        token_loss = jax.lax.stop_gradient(weight) * token_loss
    terms = {"surrogate": mean(token_loss, config.aggregation)}
    published = config.terms == "published"
    if published:
        read = read_mask(mask) & given.answered[:, None]
        lengths = jnp.sum(read, axis=1) + 1e-8
        terms["entropy"] = row_mean(jnp.sum(jnp.where(read, scores.entropy, 0.0), axis=1) / lengths) / mask.shape[1]
    else:
        terms["entropy"] = mean(scores.entropy, "token_mean")
    loss = terms["surrogate"] - config.entropy_weight * terms["entropy"]
    if given.reference_log_probs is not None:
        distance = kl_estimate(config.reference_estimator, scores.log_probs, given.reference_log_probs)
        terms["reference_kl"] = mean(distance, config.reference_aggregation or config.aggregation)
        weight = config.reference_weight if reference_weight is None else reference_weight
        loss = loss + weight * terms["reference_kl"]
    if given.before is not None:
        there_was_one = jnp.any(given.before.mask, axis=1, keepdims=True)
        compared = read_mask(mask) & there_was_one if published else mask & given.before.mask
        compared = compared & given.answered[:, None]
        terms["consistency"] = aggregate(scores.consistency, compared, "token_mean", tokens=shared)
        loss = loss + config.consistency_weight * terms["consistency"]
    if change is not None:
        root = jnp.sqrt(jnp.asarray(number, jnp.float32))
        terms["memory_change"] = root * row_mean(change[0])
        terms["memory_cosine"] = row_mean(change[1])
        loss = loss + config.memory_change_weight * terms["memory_change"]
        loss = loss - config.memory_cosine_weight * terms["memory_cosine"]
    # KL(old ‖ new) from what the old policy drew.
    distance = kl_estimate("k3", given.old_log_probs, scores.log_probs)
    counted = (own["sequences"] > 0).astype(jnp.float32)
    metrics = {f"policy/{name}": (value, counted) for name, value in terms.items()}
    if reference_weight is not None:
        metrics["policy/reference_weight"] = (reference_weight * counted, counted)
    metrics |= {
        "policy/loss": (loss, counted),
        "policy/ratio": (jnp.sum(surrogate.ratio), own["tokens"]),
        "policy/clip_fraction": (jnp.sum(surrogate.clipped), own["tokens"]),
        "policy/approximate_kl": (jnp.sum(jnp.where(mask, distance, 0.0)), own["tokens"]),
        "policy/token_entropy": (jnp.sum(jnp.where(mask, scores.entropy, 0.0)), own["tokens"]),
        "policy/advantage_abs": (jnp.sum(jnp.abs(given.advantages) * answered), own["sequences"]),
    }
    return loss, metrics


def shared_places(
    config: MemoryPolicyConfig, lengths: Int[Array, "*B"], before: Int[Array, "*B"], most: int
) -> Int[Array, "*B"]:
    """Count the places at which answers of these lengths are compared with the answers before, of at most `most`."""
    if config.terms == "published":
        return jnp.where(before > 0, jnp.minimum(lengths + 1, most), 0)
    return jnp.minimum(lengths, before)


def _norm(x: Array) -> Array:
    """Return the norm of every slot; its gradient at 0 is 0, not a NaN."""
    squares = jnp.sum(x**2, axis=-1)
    return jnp.where(squares > 0.0, jnp.sqrt(jnp.where(squares > 0.0, squares, 1.0)), 0.0)
