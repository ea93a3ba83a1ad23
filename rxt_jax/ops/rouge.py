"""ROUGE-L on token ids: the longest common subsequence. Source: docs/method.md, eq. 127c."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["longest_common_subsequence", "rouge_l"]


def longest_common_subsequence(
    a: Int[Array, "B T"], a_mask: Bool[Array, "B T"], b: Int[Array, "B U"], b_mask: Bool[Array, "B U"]
) -> Int[Array, "B"]:
    """Count the tokens of the longest subsequence that two rows share; masked tokens match nothing. Time O(T·U)."""

    def add_token(best: Array, token: tuple[Array, Array]) -> tuple[Array, None]:
        # best[:, j] is the length for the tokens so far and the first j of b.
        own, real = token
        match = (own[:, None] == b) & real[:, None] & b_mask
        longer = jnp.maximum(best[:, 1:], best[:, :-1] + match)
        return jnp.pad(jax.lax.cummax(longer, axis=1), ((0, 0), (1, 0))), None

    start = jnp.zeros((b.shape[0], b.shape[1] + 1), jnp.int32)
    return jax.lax.scan(add_token, start, (a.T, a_mask.T))[0][:, -1]


def rouge_l(
    candidates: Int[Array, "B T"],
    candidate_mask: Bool[Array, "B T"],
    references: Int[Array, "B U"],
    reference_mask: Bool[Array, "B U"],
) -> Float[Array, "B"]:
    """Give the harmonic mean of the shares of candidate and reference that the subsequence is, 0 for an empty row."""
    common = longest_common_subsequence(candidates, candidate_mask, references, reference_mask)
    total = jnp.sum(candidate_mask, axis=1) + jnp.sum(reference_mask, axis=1)
    return 2.0 * common / jnp.maximum(total, 1)
