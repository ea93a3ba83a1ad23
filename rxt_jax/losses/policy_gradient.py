"""Policy-gradient losses of tokens that a policy drew, as sums, counts and means; no model in sight.

Arrays are `[B A]`: row by row, drawn token by drawn token, `mask` True where there is one. Log-probabilities are
0 elsewhere. Source: docs/method.md §19.3 and §19.5.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float

__all__ = [
    "Aggregation",
    "KlEstimator",
    "Surrogate",
    "SurrogateConfig",
    "SurrogateLoss",
    "aggregate",
    "critic_loss",
    "kl_estimate",
    "log_ratio",
    "surrogate_loss",
]

Aggregation = Literal["token_mean", "sequence_mean", "constant_length", "sequence_sum"]
"""How tokens become one number: their mean; the mean over answers of the answers' means; the mean over answers of
their sums divided by the A tokens that an answer may have (Dr. GRPO); the mean over answers of their sums."""

KlEstimator = Literal["k1", "k2", "k3", "published"]
"""How far a policy is from another one, from the tokens it drew (eq. 131 of docs/method.md). `published` is
e^r (r − s): no divergence, and it can be negative."""

Surrogate = Literal["clipped", "cispo", "reinforce"]
"""What stands for the expected reward: PPO's clipped ratio; the log-probability weighted by a bounded ratio that has
no gradient (CISPO); the log-probability alone."""

_LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Which surrogate."""

    kind: Surrogate = "clipped"
    """Its formula."""
    ratio: Literal["token", "sequence"] = "token"
    """"sequence" (GSPO) is one ratio for a whole answer: e to the mean of the tokens' log-ratios."""
    clip_low: float = 0.2
    """Ratios below 1 − this give no further gradient."""
    clip_high: float = 0.2
    """Ratios above 1 + this give no further gradient."""
    dual_clip: float | None = None
    """c: the loss of a bad token is at most −c · A; None for no bound."""
    ratio_cap: float | None = None
    """Bound of every ratio, None for none."""
    cispo_cap: float = 5.0
    """Bound of CISPO's ratios."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Surrogate):
            raise ValueError(f"kind must be one of {', '.join(get_args(Surrogate))}, got {self.kind!r}.")
        if not 0.0 < self.clip_low < 1.0 or self.clip_high <= 0.0:
            raise ValueError(
                f"clip_low must lie in (0, 1) and clip_high above 0, got {self.clip_low} and {self.clip_high}."
            )
        for name in ("dual_clip", "ratio_cap"):
            value = getattr(self, name)
            if value is not None and value <= 1.0:
                raise ValueError(f"{name} must be above 1, got {value}. Use None to switch it off.")


class SurrogateLoss(NamedTuple):
    """The loss of every token, its ratio, and whether the clip holds it back, `[B A]`; 0 where nothing was drawn."""

    loss: Float[Array, "B A"]
    ratio: Float[Array, "B A"]
    clipped: Float[Array, "B A"]


def log_ratio(log_probs: Float[Array, "*B A"], old_log_probs: Float[Array, "*B A"]) -> Float[Array, "*B A"]:
    """Return s − o, at most ±20, so that no ratio overflows."""
    return jnp.clip(log_probs - old_log_probs, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)


def surrogate_loss(
    config: SurrogateConfig,
    log_probs: Float[Array, "B A"],
    old_log_probs: Float[Array, "B A"],
    advantages: Float[Array, "B"],
    mask: Bool[Array, "B A"],
) -> SurrogateLoss:
    """Score every drawn token; its gradient is that of minus the expected advantage.

    Source: docs/method.md, eq. 130.
    """
    each = advantages[:, None]
    difference = jnp.where(mask, log_ratio(log_probs, old_log_probs), 0.0)
    if config.ratio == "sequence":
        count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
        difference = jnp.broadcast_to(jnp.sum(difference, axis=1, keepdims=True) / count, difference.shape)
    ratio = jnp.exp(difference)
    if config.ratio_cap is not None:
        ratio = jnp.minimum(ratio, config.ratio_cap)
    bounded = jnp.clip(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high)
    if config.kind == "reinforce":
        loss = -each * log_probs
    elif config.kind == "cispo":
        loss = -stop_gradient(jnp.minimum(ratio, config.cispo_cap)) * each * log_probs
    else:
        loss = -jnp.minimum(ratio * each, bounded * each)
        if config.dual_clip is not None:
            loss = jnp.where(each < 0.0, jnp.minimum(loss, -config.dual_clip * each), loss)
    outside = (bounded * each < ratio * each).astype(jnp.float32)
    return SurrogateLoss(*(jnp.where(mask, leaf, 0.0) for leaf in (loss, ratio, outside)))


def kl_estimate(
    kind: KlEstimator, log_probs: Float[Array, "*B A"], other_log_probs: Float[Array, "*B A"]
) -> Float[Array, "*B A"]:
    """Estimate KL(policy ‖ other) from each token that the policy drew. Source: docs/method.md, eq. 131."""
    difference = log_ratio(other_log_probs, log_probs)
    if kind == "k1":
        return -difference
    if kind == "k2":
        return 0.5 * difference**2
    if kind == "k3":
        return jnp.exp(difference) - difference - 1.0
    if kind == "published":
        return jnp.exp(other_log_probs) * (other_log_probs - log_probs)
    raise ValueError(f"estimator must be one of {', '.join(get_args(KlEstimator))}, got {kind!r}.")


def aggregate(
    values: Float[Array, "B A"],
    mask: Bool[Array, "B A"],
    mode: Aggregation,
    *,
    tokens: Array | None = None,
    sequences: Array | None = None,
) -> Float[Array, ""]:
    """Make one number of the tokens' values.

    `tokens` and `sequences` are the denominators of a larger batch that these rows are a part of: the results of its
    parts then add up to that of the whole. Answers without a token count for nothing.
    """
    values = jnp.where(mask, values, 0.0)
    lengths = jnp.sum(mask, axis=1)
    if mode == "token_mean":
        return jnp.sum(values) / jnp.maximum(jnp.sum(lengths) if tokens is None else tokens, 1)
    count = jnp.maximum(jnp.sum(lengths > 0) if sequences is None else sequences, 1)
    if mode == "sequence_mean":
        return jnp.sum(jnp.sum(values, axis=1) / jnp.maximum(lengths, 1)) / count
    if mode == "constant_length":
        return jnp.sum(values) / values.shape[1] / count
    if mode == "sequence_sum":
        return jnp.sum(values) / count
    raise ValueError(f"aggregation must be one of {', '.join(get_args(Aggregation))}, got {mode!r}.")


def critic_loss(
    values: Float[Array, "*B"],
    returns: Float[Array, "*B"],
    old_values: Float[Array, "*B"] | None = None,
    *,
    bound: float | None = 20.0,
    clip: float | None = None,
) -> Float[Array, "*B"]:
    """Score values by their squared distance from returns, both held within ±`bound` (published: 20).

    With `clip` half of the larger of that and the distance of the old values moved by at most `clip`, as PPO does.
    Source: docs/method.md §19.6.
    """
    if bound is not None:
        values, returns = jnp.clip(values, -bound, bound), jnp.clip(returns, -bound, bound)
    squares = (values - returns) ** 2
    if clip is None:
        return squares
    if old_values is None:
        raise ValueError(f"clip = {clip} holds values near the old ones and needs `old_values`.")
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    return 0.5 * jnp.maximum(squares, (near - returns) ** 2)
