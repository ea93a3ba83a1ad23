"""Choosing the next token."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rxt_jax.types import Array, Key

__all__ = ["SamplingConfig", "filter_logits", "sample"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """`temperature` None is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off.

    `min_p` drops tokens less likely than this share of the likeliest one.
    """

    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}. Use None for greedy.")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}. Use 0 to switch it off.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}. Use 1 to switch it off.")
        if not 0.0 <= self.min_p < 1.0:
            raise ValueError(f"min_p must lie in [0, 1), got {self.min_p}. Use 0 to switch it off.")


def filter_logits(logits: Array, config: SamplingConfig) -> Array:
    """Divide `[B V]` by the temperature and drop what top-k, top-p and min-p exclude (−∞), in this order.

    Ties at the k-th place stay; the token that crosses `top_p` stays. Source: docs/method.md §12.1.
    """
    if config.temperature is None:
        best = jnp.argmax(logits, axis=-1, keepdims=True)
        return jnp.where(jnp.arange(logits.shape[-1]) == best, 0.0, -jnp.inf)
    logits = logits / config.temperature
    if config.top_k:
        threshold = jax.lax.top_k(logits, min(config.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if config.top_p < 1.0:
        order = jnp.argsort(logits, axis=-1, descending=True)
        ranked = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        before = jnp.cumsum(ranked, axis=-1) - ranked
        keep = jnp.zeros(logits.shape, bool).at[jnp.arange(len(logits))[:, None], order].set(before <= config.top_p)
        logits = jnp.where(keep, logits, -jnp.inf)
    if config.min_p > 0.0:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(config.min_p)
        logits = jnp.where(logits < floor, -jnp.inf, logits)
    return logits


def sample(logits: Array, config: SamplingConfig, key: Key) -> tuple[Array, Array]:
    """Draw a token per row; return ids `[B]` and their log-probabilities after filtering `[B]`."""
    if config.temperature is None:  # nothing to draw: random bits for a whole vocabulary cost more than a small model
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.zeros(len(logits), jnp.float32)
    filtered = filter_logits(logits, config)
    ids = jax.random.categorical(key, filtered, axis=-1).astype(jnp.int32)
    log_probabilities = jax.nn.log_softmax(filtered, axis=-1)
    return ids, jnp.take_along_axis(log_probabilities, ids[:, None], axis=-1)[:, 0]
