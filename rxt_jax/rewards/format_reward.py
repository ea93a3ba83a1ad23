"""What is wrong with the form of an answer: repetition, no end, control tokens out of place, too many words."""

from dataclasses import dataclass

import jax.numpy as jnp

from rxt_jax.ops.columns import put_columns
from rxt_jax.ops.ngrams import repeated_share
from rxt_jax.rewards.reward import Reward, RewardContext, RewardInput, Tokens
from rxt_jax.types import Array

__all__ = ["FormatReward", "tokens_present"]


@dataclass(frozen=True, kw_only=True)
class FormatReward(Reward):
    """Punish the form; the total is 0 for a faultless answer and negative otherwise.

    Every weight multiplies a fault between 0 and 1; 0 leaves it out.
    Source: docs/method.md, eq. 127e.
    """

    name = "format"

    repetition: float = 1.0
    """Weight of the share of n-grams that stood in the answer before."""
    repetition_order: int = 3
    """The n of these n-grams."""
    missing_end: float = 1.0
    """Weight of an answer that does not end: `[EOS]` is not among its tokens."""
    special_tokens: float = 1.0
    """Weight of the share of tokens that are control tokens which the data's own answer does not have."""
    overlong: float = 0.0
    """Weight of the share of tokens beyond `longest` times the data's own answer."""
    longest: float = 2.0
    """How many times as long as the data's own answer is not too long."""

    def __post_init__(self) -> None:
        for field in ("repetition", "missing_end", "special_tokens", "overlong"):
            if getattr(self, field) < 0.0:
                raise ValueError(f"{field} must be at least 0, got {getattr(self, field)}: it weighs a fault.")
        if self.repetition_order < 1 or self.longest <= 0.0:
            raise ValueError(
                f"repetition_order must be at least 1 and longest above 0, got {self.repetition_order} and "
                f"{self.longest}."
            )

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Weigh the faults."""
        ids, mask = given.generated
        length = jnp.maximum(jnp.sum(mask, axis=1), 1)
        known = jnp.take_along_axis(tokens_present(given.answer, len(context.special)), ids, axis=1)
        # The end is not out of place, even where the data's answer was cut before its own.
        misplaced = mask & context.special[ids] & ~known & (ids != context.end_id)
        allowed = self.longest * jnp.sum(given.answer.mask, axis=1)
        faults = {
            "repetition": repeated_share(ids, mask, self.repetition_order),
            "missing_end": 1.0 - jnp.any(mask & (ids == context.end_id), axis=1),
            "special_tokens": jnp.sum(misplaced, axis=1) / length,
            "overlong": jnp.maximum(length - allowed, 0.0) / length,
        }
        total = -sum(getattr(self, fault) * value for fault, value in faults.items())
        return jnp.asarray(total), {f"{self.name}/{fault}": value for fault, value in faults.items()}, carry


def tokens_present(text: Tokens, vocabulary: int) -> Array:
    """Tell which ids a text has, `[B V]`."""
    # Padding is sent beyond the last id, where nothing is kept.
    return put_columns(
        jnp.zeros((len(text.ids), vocabulary), bool), jnp.where(text.mask, text.ids, vocabulary), text.mask
    )
