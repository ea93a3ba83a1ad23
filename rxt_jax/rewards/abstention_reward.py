"""Name a value where you are sure of it and say that you do not know where you are not.

No data can teach this by likelihood: which questions a model can answer depends on the model, and the data's answer to
a question about something that was told is always the value. Source: docs/method.md, eq. 127i.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rxt_jax.rewards.fact_reward import facts_held
from rxt_jax.rewards.reward import Facts, Reward, RewardContext, RewardInput, Tokens, require
from rxt_jax.types import Array

__all__ = ["AbstentionReward"]

_FACTS = "The stage has to hand over the recall annotations of its data (rewards.planted_facts)."
_CONTEXT = "make_reward_context(..., abstentions=True) encodes them."


@dataclass(frozen=True, kw_only=True)
class AbstentionReward(Reward):
    r"""1 for the value that was asked for, 0 for saying that it is not known, $-c / (1 - c)$ for anything else.

    With `confidence` $c$ a guess that is right with probability $c$ earns nothing on average. The best a model can do
    is to name what it is surer of than that, and to abstain otherwise. Where the data's own answer abstains because
    nothing was told, anything else costs as much. An answer is right where it holds all values that are asked for and,
    if the stage hands over `other_facts`, no other value of the conversation. Where no value is asked for and the data
    do not abstain, any answer earns 0.

    Begin with a `confidence` below the share of questions that the model answers rightly: above it guessing never pays
    at first, and the quickest way to earn more is to fall silent altogether (benchmarks/after_stage_4.md).
    """

    name = "abstention"

    confidence: float = 0.5
    """How sure the model should be of a value before it names it, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence < 1.0:
            raise ValueError(f"confidence must be at least 0 and below 1, got {self.confidence}.")

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Tell right, silent and wrong answers apart."""
        facts = require(given.facts, self.name, "given.facts", _FACTS)
        phrases = require(context.abstentions, self.name, "context.abstentions", _CONTEXT)
        exists = jnp.any(facts.mask, axis=(2, 3))
        asked = jnp.any(exists, axis=1)
        right = asked & jnp.all(facts_held(given.generated, facts, context) | ~exists, axis=1)
        if given.other_facts is not None:
            right &= ~jnp.any(facts_held(given.generated, given.other_facts, context), axis=1)
        silent = ~right & _abstains(given.generated, phrases, context)
        never_told = ~asked & _abstains(given.answer, phrases, context)
        wrong = (asked | never_told) & ~right & ~silent
        components = {
            "abstention/right": right,
            "abstention/silent": asked & silent,
            "abstention/wrong": asked & wrong,
            "abstention/made_up": never_told & wrong,
        }
        price = self.confidence / (1.0 - self.confidence)
        total = right.astype(jnp.float32) - price * wrong
        return total, {name: value.astype(jnp.float32) for name, value in components.items()}, carry


def _abstains(text: Tokens, phrases: Facts, context: RewardContext) -> Array:
    """Tell which texts say that something was not told: `[B]`."""
    rows = len(text.ids)
    spread = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape[1:])), phrases)
    return jnp.any(facts_held(text, spread, context), axis=1)
