"""Shares of counted answers, and how sure they are."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["PooledShare", "pool_distances", "standard_error"]


class PooledShare(NamedTuple):
    """Right answers to questions of neighbouring distances; `distance` is the mean of those that were asked."""

    distance: float
    share: float
    error: float


def standard_error(right: int, asked: int) -> float | None:
    """Give the binomial standard error of the share `right / asked`, None where nothing was asked.

    Taken at the share (right + 1) / (asked + 2), so that a few answers that are all right or all wrong do not look
    certain.
    """
    if not asked:
        return None
    share = (right + 1) / (asked + 2)
    return math.sqrt(share * (1 - share) / asked)


def pool_distances(by_distance: Mapping[int, Sequence[int]], least: int) -> list[PooledShare]:
    """Join neighbouring distances, near ones first, until `least` questions are together; what is left joins the last.

    `by_distance` is distance → [right, asked].
    """
    pools: list[list[int]] = []  # right, asked, sum of distances
    for distance, (right, asked) in sorted(by_distance.items()):
        if not pools or pools[-1][1] >= least:
            pools.append([0, 0, 0])
        for place, amount in enumerate((right, asked, distance * asked)):
            pools[-1][place] += amount
    if len(pools) > 1 and pools[-1][1] < least:
        last = pools.pop()
        pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return [
        PooledShare(total / asked, right / asked, standard_error(right, asked) or 0.0)
        for right, asked, total in pools
        if asked
    ]
