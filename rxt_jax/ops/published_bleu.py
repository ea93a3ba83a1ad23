"""BLEU on token ids as the published implementation computes it, for comparison with its numbers.

It is close to NLTK where every order has a match and differs where one has none, in ties of length and in corpora
with short sentences. Source: docs/method.md, eq. 124g.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.ops.bleu import BleuCounts, bleu_counts, brevity_penalty, weigh_orders

__all__ = [
    "PublishedSmoothing",
    "published_corpus_bleu",
    "published_corpus_counts",
    "published_sentence_bleu",
]

PublishedSmoothing = Literal["none", "floor", "add_k", "exp"]
"""What an order without a match has for a precision: next to nothing, epsilon / total, (matches + k) / (total + k) (in
every order), or next to nothing (`exp`; in a corpus half the precision before it)."""

_NEXT_TO_NOTHING = 1e-12


def published_sentence_bleu(
    counts: BleuCounts,
    weights: Sequence[float] | None = None,
    *,
    smoothing: PublishedSmoothing = "exp",
    epsilon: float = 0.1,
    k: float = 1.0,
) -> Float[Array, "B"]:
    """Score every candidate from `bleu_counts(..., tie="first")`."""
    counts, by_order = weigh_orders(counts, weights)
    precision = _precision(counts, smoothing, epsilon, k)
    if smoothing == "exp":
        precision = jnp.where(precision == 0.0, _NEXT_TO_NOTHING, precision)
    logs = jnp.log(precision + _NEXT_TO_NOTHING)
    return brevity_penalty(counts.length, counts.reference_length) * jnp.exp(jnp.sum(by_order * logs, axis=-1))


def published_corpus_counts(
    candidates: Int[Array, "B T"],
    candidate_mask: Bool[Array, "B T"],
    references: Int[Array, "B R U"],
    reference_mask: Bool[Array, "B R U"],
    *,
    max_order: int = 4,
) -> BleuCounts:
    """Count for `published_corpus_bleu`, which wants its own counts.

    An order for which one candidate is too short counts nothing, and neither does, at that order, the r-th reference of
    all candidates when one of them is too short.
    """
    # A reference without tokens takes part in no order, but it exists: its length can be the nearest.
    shortest = jnp.maximum(jnp.min(jnp.sum(reference_mask, axis=-1), axis=0), 1)
    counts = bleu_counts(
        candidates,
        candidate_mask,
        references,
        reference_mask,
        max_order=max_order,
        tie="first",
        reference_orders=jnp.broadcast_to(shortest, references.shape[:2]),
    )
    long_enough = jnp.arange(1, max_order + 1) <= jnp.min(counts.length)
    matches, totals = (jnp.where(long_enough, each, 0) for each in (counts.matches, counts.totals))
    return counts._replace(matches=matches, totals=totals)


def published_corpus_bleu(
    counts: BleuCounts,
    weights: Sequence[float] | None = None,
    *,
    smoothing: PublishedSmoothing = "exp",
    epsilon: float = 0.1,
    k: float = 1.0,
) -> Float[Array, ""]:
    """Score all candidates as one text, from `published_corpus_counts`."""
    counts, by_order = weigh_orders(BleuCounts(*(jnp.sum(each, axis=0) for each in counts)), weights)
    precision = _precision(counts, smoothing, epsilon, k)
    if smoothing == "exp":
        halved: list[Array] = []
        for each in precision:
            instead = halved[-1] / 2.0 if halved else _NEXT_TO_NOTHING
            halved.append(jnp.where(each == 0.0, instead, each))
        precision = jnp.stack(halved)
    logs = jnp.log(precision + (_NEXT_TO_NOTHING if smoothing == "none" else 0.0))
    score = brevity_penalty(counts.length, counts.reference_length) * jnp.exp(jnp.sum(by_order * logs))
    return jnp.where(jnp.any(counts.totals == 0), 0.0, score) if smoothing == "none" else score


def _precision(counts: BleuCounts, smoothing: PublishedSmoothing, epsilon: float, k: float) -> Array:
    if smoothing not in get_args(PublishedSmoothing):
        raise ValueError(f"smoothing must be one of {', '.join(get_args(PublishedSmoothing))}, got {smoothing!r}.")
    matches, totals = counts.matches, counts.totals
    if smoothing == "add_k":
        return (matches + k) / (totals + k)
    if smoothing == "floor":
        return jnp.where(matches == 0, epsilon, matches) / jnp.maximum(totals, 1)
    return matches / jnp.maximum(totals, 1)
