"""BLEU on token ids, on the device: one counting pass, and any score from its counts.

    ids, masks ──▶ bleu_counts ──▶ BleuCounts ──▶ sentence_bleu [B] or corpus_bleu

Scores are those of NLTK for the same lists of tokens. Shapes are static, nothing leaves the device, and no gradient
comes back: counts are integers. Token-id BLEU depends on the tokenizer, so it compares models of one tokenizer only.
Source: docs/method.md, eq. 124b to 124f.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.ops.ngrams import token_windows
from rxt_jax.row_sharding import map_rows

__all__ = [
    "BleuCounts",
    "BleuSmoothing",
    "LengthTie",
    "bleu_counts",
    "brevity_penalty",
    "corpus_bleu",
    "sentence_bleu",
    "weigh_orders",
]

BleuSmoothing = Literal["none", "floor", "add_k_higher", "nist", "chen_cherry", "add_k"]
"""What stands for an order without a match: NLTK's methods 0, 1 (with epsilon), 2, 3 and 4; `add_k` adds to the first
order as well, which NLTK has no method for."""

LengthTie = Literal["shorter", "first"]
"""Which of two references counts that are equally near in length: the shorter one (NLTK) or the first one."""

_LOG_NOTHING = math.log(sys.float_info.min)  # NLTK's stand-in for log 0
_CHEN_CHERRY_K = 5.0  # Chen and Cherry's constant, NLTK's default


class BleuCounts(NamedTuple):
    """What BLEU needs to know of B candidates, for the orders 1 to N.

    `matches` are n-grams that a reference has as well, each at most as often as the reference with most of it;
    `totals` all n-grams of the candidate; `reference_length` is that of the reference nearest in length.
    """

    matches: Int[Array, "B N"]
    totals: Int[Array, "B N"]
    length: Int[Array, "B"]
    reference_length: Int[Array, "B"]


def bleu_counts(
    candidates: Int[Array, "B T"],
    candidate_mask: Bool[Array, "B T"],
    references: Int[Array, "B R U"],
    reference_mask: Bool[Array, "B R U"],
    *,
    max_order: int = 4,
    tie: LengthTie = "shorter",
    reference_orders: Int[Array, "B R"] | None = None,
) -> BleuCounts:
    """Count the n-grams of B candidates of T tokens that occur among their R references of U tokens.

    Masks say what is a real token. A masked token may stand anywhere: no n-gram reaches over it and no length counts
    it. `reference_orders` is the highest order at which a reference takes part, 0 for one that does not exist
    (None: all do); a reference that exists and is empty has length 0.

    The windows of `max_order` tokens that begin at each place are sorted, once: equal n-grams of every order then
    stand side by side. Time O(P log P) per row, with P = T + R·U.
    """
    if max_order < 1:
        raise ValueError(f"max_order must be at least 1, got {max_order}.")
    if tie not in get_args(LengthTie):
        raise ValueError(f"tie must be one of {', '.join(get_args(LengthTie))}, got {tie!r}.")
    rows, number = references.shape[:2]
    if reference_orders is None:
        reference_orders = jnp.full((rows, number), max_order)
    if number == 0:
        raise ValueError("references must hold at least one reference per candidate, got [B 0 U].")

    length, lengths = jnp.sum(candidate_mask, -1), jnp.sum(reference_mask, -1)
    own = token_windows(candidates, candidate_mask, max_order)
    theirs = token_windows(references, reference_mask, max_order)
    totals = jnp.stack([jnp.sum(last >= 0, axis=1) for last in own], axis=1)
    keys = [jnp.concatenate([a, b.reshape(rows, -1)], axis=1) for a, b in zip(own, theirs, strict=True)]
    text = np.repeat(np.arange(number + 1), [candidates.shape[1], *[references.shape[2]] * number])
    text = jnp.broadcast_to(jnp.asarray(text, jnp.int32), keys[0].shape)
    *keys, text = jax.lax.sort((*keys, text), dimension=1, num_keys=max_order, is_stable=False)
    matches, same = [], jnp.ones(text.shape, bool).at[:, 0].set(False)
    for order, key in enumerate(keys, 1):
        same &= key == jnp.roll(key, 1, axis=1)
        counts = _count_groups(jnp.cumsum(~same, axis=1) - 1, text, key >= 0, number + 1)
        taking_part = (reference_orders >= order)[:, :, None]
        most = jnp.max(jnp.where(taking_part, counts[:, 1:], 0), axis=1)
        matches.append(jnp.sum(jnp.minimum(counts[:, 0], most), axis=1))
    nearest = _nearest_length(length, lengths, reference_orders > 0, tie)
    return BleuCounts(jnp.stack(matches, axis=1), totals, length, nearest)


def sentence_bleu(
    counts: BleuCounts,
    weights: Sequence[float] | None = None,
    *,
    smoothing: BleuSmoothing = "chen_cherry",
    epsilon: float = 0.1,
    k: float = 1.0,
) -> Float[Array, "B"]:
    """Score every candidate, in [0, 1]. `weights[n-1]` is what order n counts (None: all the same).

    `epsilon` belongs to `floor`, `k` to `add_k` and `add_k_higher`. Without a matching token the score is 0.
    """
    counts = counts._replace(totals=jnp.maximum(counts.totals, 1))
    return _score(counts, weights, smoothing, epsilon, k)


def corpus_bleu(
    counts: BleuCounts,
    weights: Sequence[float] | None = None,
    *,
    smoothing: BleuSmoothing = "none",
    epsilon: float = 0.1,
    k: float = 1.0,
) -> Float[Array, ""]:
    """Score all candidates as one text: matches, n-grams and lengths are added up before anything is divided.

    As in NLTK an order for which a candidate is too short counts one n-gram of it.
    """
    counts = counts._replace(totals=jnp.maximum(counts.totals, 1))
    return _score(BleuCounts(*(jnp.sum(each, axis=0) for each in counts)), weights, smoothing, epsilon, k)


def brevity_penalty(length: Int[Array, "*B"], reference_length: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Punish what is shorter than its nearest reference: e^(1 − r/h), 0 for an empty candidate."""
    short = jnp.exp(1.0 - reference_length / jnp.maximum(length, 1))
    return jnp.where(length > reference_length, 1.0, jnp.where(length == 0, 0.0, short))


def weigh_orders(counts: BleuCounts, weights: Sequence[float] | None) -> tuple[BleuCounts, Float[Array, "N"]]:
    """Give the weights of orders 1, 2, ... (None: all that were counted, the same) and the counts of these orders."""
    counted = counts.matches.shape[-1]
    weights = [1.0 / counted] * counted if weights is None else weights
    if not 1 <= len(weights) <= counted:
        raise ValueError(f"weights must be those of 1 to {counted} orders, which were counted, got {len(weights)}.")
    matches, totals = (each[..., : len(weights)] for each in (counts.matches, counts.totals))
    return counts._replace(matches=matches, totals=totals), jnp.array(weights, jnp.float32)


def _count_groups(group: Array, text: Array, real: Array, texts: int) -> Array:
    """Count the members of every group that are of each text: `[B texts P]`."""

    def count(rows: tuple[Array, Array, Array], _: Any, __: tuple[str, ...]) -> tuple[Array, tuple[()]]:
        group, text, real = rows
        counts = jnp.zeros((len(group), texts, group.shape[1]), jnp.int32)
        return counts.at[jnp.arange(len(group))[:, None], text, group].add(real.astype(jnp.int32)), ()

    # On a mesh every device counts in its own rows.
    return map_rows(count, (group, text, real))[0]


def _nearest_length(length: Array, lengths: Array, exists: Array, tie: LengthTie) -> Array:
    far = jnp.iinfo(jnp.int32).max
    distance = jnp.where(exists, jnp.abs(lengths - length[:, None]), far)
    nearest = distance == jnp.min(distance, axis=1, keepdims=True)
    if tie == "shorter":
        return jnp.min(jnp.where(nearest, lengths, far), axis=1)
    return jnp.take_along_axis(lengths, jnp.argmax(nearest, axis=1)[:, None], axis=1)[:, 0]


def _score(counts: BleuCounts, weights: Sequence[float] | None, smoothing: str, epsilon: float, k: float) -> Array:
    if smoothing not in _SMOOTHINGS:
        raise ValueError(f"smoothing must be one of {', '.join(_SMOOTHINGS)}, got {smoothing!r}.")
    counts, by_order = weigh_orders(counts, weights)
    matches, totals = counts.matches.astype(jnp.float32), counts.totals.astype(jnp.float32)
    missing = matches == 0
    logs = _SMOOTHINGS[smoothing](_Orders(matches, totals, missing, counts.length[..., None]), epsilon, k)
    score = brevity_penalty(counts.length, counts.reference_length) * jnp.exp(jnp.sum(by_order * logs, axis=-1))
    return jnp.where(missing[..., 0], 0.0, score)


class _Orders(NamedTuple):
    """Matches and totals of the orders `[... N]`, where there is no match, and the candidate's length `[... 1]`."""

    matches: Array
    totals: Array
    missing: Array
    length: Array


def _where_missing(orders: _Orders, numerator: Array | float) -> Array:
    """Log precisions with the log of another numerator where nothing matches."""
    matched = jnp.log(jnp.where(orders.missing, 1.0, orders.matches))
    return jnp.where(orders.missing, numerator, matched) - jnp.log(orders.totals)


def _none(orders: _Orders, epsilon: float, k: float) -> Array:
    return jnp.where(orders.missing, _LOG_NOTHING, _where_missing(orders, 0.0))


def _floor(orders: _Orders, epsilon: float, k: float) -> Array:
    return _where_missing(orders, math.log(epsilon))


def _add_k(orders: _Orders, epsilon: float, k: float) -> Array:
    return jnp.log(orders.matches + k) - jnp.log(orders.totals + k)


def _add_k_higher(orders: _Orders, epsilon: float, k: float) -> Array:
    first = jnp.arange(orders.matches.shape[-1]) == 0
    return jnp.where(first, _where_missing(orders, 0.0), _add_k(orders, epsilon, k))


def _nist(orders: _Orders, epsilon: float, k: float) -> Array:
    return _where_missing(orders, -math.log(2.0) * jnp.cumsum(orders.missing, axis=-1))


def _chen_cherry(orders: _Orders, epsilon: float, k: float) -> Array:
    numerator = jnp.log(jnp.log(jnp.maximum(orders.length, 2).astype(jnp.float32)) / _CHEN_CHERRY_K)
    logs = _where_missing(orders, numerator - math.log(2.0) * jnp.cumsum(orders.missing, axis=-1))
    # ln 1 is 0: NLTK leaves the orders of a candidate of one token out.
    return jnp.where(orders.missing & (orders.length <= 1), 0.0, logs)


_SMOOTHINGS: dict[str, Callable[[_Orders, float, float], Array]] = {
    "none": _none,
    "floor": _floor,
    "add_k_higher": _add_k_higher,
    "nist": _nist,
    "chen_cherry": _chen_cherry,
    "add_k": _add_k,
}
