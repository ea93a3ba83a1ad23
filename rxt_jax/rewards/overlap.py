"""Overlap with the data's answer that is not BLEU: its longest common subsequence, and what only memory could tell."""

from dataclasses import dataclass

import jax.numpy as jnp

from rxt_jax.ops.rouge import rouge_l
from rxt_jax.rewards.format_reward import tokens_present
from rxt_jax.rewards.reward import Reward, RewardContext, RewardInput
from rxt_jax.types import Array

__all__ = ["NewContentReward", "RougeReward"]


@dataclass(frozen=True, kw_only=True)
class RougeReward(Reward):
    """ROUGE-L of the answer and the data's own, control tokens left out, in [0, 1].

    Source: docs/method.md, eq. 127c.
    """

    name = "rouge"

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Compare the subsequences."""
        generated, answer = (each._replace(mask=each.mask & ~context.special[each.ids]) for each in given[:2])
        score = rouge_l(*generated, *answer)
        return score, {"rouge/l": score}, carry


@dataclass(frozen=True, kw_only=True)
class NewContentReward(Reward):
    """The share of what memory alone can tell: tokens of the data's answer that are saved and not in the question.

    Control tokens do not count. Where there is no such token the reward is `without_content`.
    Source: docs/method.md, eq. 127d.
    """

    name = "new_content"

    without_content: float = 0.0
    """The reward where there is no such token."""

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Count the distinct tokens that come back."""
        texts = (given.generated, given.answer, given.saved, given.query)
        generated, answer, saved, query = (tokens_present(each, len(context.special)) for each in texts)
        wanted = answer & saved & ~query & ~context.special
        count = jnp.sum(wanted, axis=1)
        share = jnp.sum(wanted & generated, axis=1) / jnp.maximum(count, 1)
        total = jnp.where(count > 0, share, self.without_content)
        return total, {"new_content/recall": total, "new_content/tokens": count.astype(jnp.float32)}, carry
