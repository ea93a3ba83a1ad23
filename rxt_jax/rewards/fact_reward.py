"""Whether an answer holds the values that were told earlier: the reward that likelihood cannot give.

Values come as token ids in several spellings (`rewards.planted_facts`), so all of it runs on the device.
Source: docs/method.md, eq. 127f and 127g.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp

from rxt_jax.rewards.reward import Facts, Reward, RewardContext, RewardInput, Tokens, require
from rxt_jax.types import Array

__all__ = ["FactMeasure", "FactReward", "facts_held", "span_f1"]

FactMeasure = Literal["exact", "span_f1", "answer_f1"]
"""1 where the answer holds the value as a run of whole words; the token F1 of the value and the run of the answer that
is nearest to it, which rewards half a value; the token F1 of the value and the whole answer, which rewards brevity."""

_REMEDY = "The stage has to hand over the recall annotations of its data (rewards.planted_facts)."


@dataclass(frozen=True, kw_only=True)
class FactReward(Reward):
    """Reward the values that the question asks for: the mean of the measure over them, in [0, 1]."""

    name = "facts"

    measure: FactMeasure = "exact"
    """How an answer is compared with a value."""
    wrong_weight: float = 0.0
    """What naming another value of the conversation costs; above 0 it needs `other_facts`."""
    without_facts: float = 0.0
    """The reward of an interaction that asks for no value."""

    def __post_init__(self) -> None:
        if self.measure not in get_args(FactMeasure):
            raise ValueError(f"measure must be one of {', '.join(get_args(FactMeasure))}, got {self.measure!r}.")
        if self.wrong_weight < 0.0:
            raise ValueError(f"wrong_weight must be at least 0, got {self.wrong_weight}: it is what a fault costs.")

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Look for the values."""
        facts = require(given.facts, self.name, "given.facts", _REMEDY)
        exists = jnp.any(facts.mask, axis=(2, 3))
        count = jnp.sum(exists, axis=1)

        def mean(values: Array) -> Array:
            return jnp.sum(jnp.where(exists, values, 0.0), axis=1) / jnp.maximum(count, 1)

        exact = mean(facts_held(given.generated, facts, context).astype(jnp.float32))
        components = {"facts/exact": exact, "facts/asked": count.astype(jnp.float32)}
        total = exact
        if self.measure != "exact":
            answer = given.generated._replace(mask=given.generated.mask & ~context.special[given.generated.ids])
            total = mean(span_f1(answer, facts, whole=self.measure == "answer_f1"))
            components[f"facts/{self.measure}"] = total
        total = jnp.where(count > 0, total, self.without_facts)
        if self.wrong_weight or given.other_facts is not None:
            others = require(given.other_facts, self.name, "given.other_facts", _REMEDY)
            wrong = jnp.any(facts_held(given.generated, others, context), axis=1).astype(jnp.float32)
            components["facts/wrong"] = wrong
            total -= self.wrong_weight * wrong
        return total, components, carry


def facts_held(text: Tokens, facts: Facts, context: RewardContext) -> Array:
    """Tell which values a text holds as a run of whole words, in any of their spellings: `[B F]`.

    A run does not count where its first token continues the word before it, or the token after it continues its last.
    """
    ids, mask, length = text.ids, text.mask, jnp.sum(facts.mask, axis=-1)
    width = facts.ids.shape[-1]
    padded_ids, padded_mask = (jnp.pad(each, ((0, 0), (0, width + 1))) for each in (ids, mask))
    # From here on axes are B, T, F, P: every place of the text with every spelling.
    found = jnp.broadcast_to(length[:, None] > 0, (*ids.shape, *length.shape[1:]))
    inside_after = jnp.zeros(found.shape, bool)
    for distance in range(width + 1):
        here = padded_ids[:, distance : distance + ids.shape[1], None, None]
        real = padded_mask[:, distance : distance + ids.shape[1], None, None]
        inside_after |= (length[:, None] == distance) & real & context.letter_first[here]
        if distance < width:
            wanted = facts.mask[:, None, :, :, distance]
            found &= ~wanted | (real & (here == facts.ids[:, None, :, :, distance]))
    last = jnp.take_along_axis(facts.ids, jnp.maximum(length - 1, 0)[..., None], axis=-1)[..., 0]
    found &= ~(inside_after & context.letter_last[last][:, None])
    before = jnp.pad(mask & context.letter_last[ids], ((0, 0), (1, 0)))[:, :-1]
    found &= ~(before[:, :, None, None] & context.letter_first[facts.ids[..., 0]][:, None])
    return jnp.any(found, axis=(1, 3))


def span_f1(text: Tokens, facts: Facts, *, whole: bool = False) -> Array:
    """Give the best token F1 of every value and a run of as many tokens, or the whole text: `[B F]`.

    F1 is twice the tokens in common, each as often as both have it, over the tokens of both.
    """
    ids, mask = text.ids, text.mask
    width, length = facts.ids.shape[-1], jnp.sum(facts.mask, axis=-1)
    equal = (facts.ids[..., :, None] == facts.ids[..., None, :]) & facts.mask[..., None, :]
    number = jnp.sum(equal & (jnp.arange(width)[None, :] < jnp.arange(width)[:, None]), axis=-1)
    # hits [B T F P W]: whether a place of the text has the w-th token of a spelling.
    hits = (ids[:, :, None, None, None] == facts.ids[:, None]) & mask[:, :, None, None, None] & facts.mask[:, None]
    hits, real = hits.astype(jnp.int32), mask.astype(jnp.int32)
    if whole:
        inside, own = jnp.sum(hits, axis=1, keepdims=True), jnp.sum(real, axis=1)[:, None, None, None]
    else:
        inside, own = jnp.zeros_like(hits), jnp.zeros(hits.shape[:-1], jnp.int32)
        for distance in range(width):
            counts = (length > distance)[:, None]
            ahead = [(0, 0), (0, min(distance, ids.shape[1])), (0, 0), (0, 0), (0, 0)]
            inside += jnp.where(counts[..., None], jnp.pad(hits[:, distance:], ahead), 0)
            own += jnp.where(counts, jnp.pad(real[:, distance:], ahead[:2])[:, :, None, None], 0)
    common = jnp.sum((inside > number[:, None]) & facts.mask[:, None], axis=-1)
    return jnp.max(2.0 * common / jnp.maximum(own + length[:, None], 1), axis=(1, 3))
