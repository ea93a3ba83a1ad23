"""Random draws that are the same on every platform: a Philox counter stream and integer arithmetic only.

NumPy promises stable bit streams, not stable `Generator` methods, so the few methods needed are written here.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

__all__ = ["Draws", "stream_key"]

T = TypeVar("T")

_BLOCK = 128
_ONE = 1 << 64


def stream_key(*words: int) -> int:
    """Mix integers (seed, split, purpose) into one 128-bit Philox key."""
    low, high = np.random.SeedSequence(words).generate_state(2, np.uint64).tolist()
    return low | high << 64


class Draws:
    """The draws of one episode: element `index` of the stream `key`, independent of all others."""

    __slots__ = ("_bits", "_words")

    def __init__(self, key: int, index: int):
        # The index fills the upper half of the counter, so streams cannot run into each other.
        self._bits = np.random.Philox(key=key, counter=index << 128)
        self._words: list[int] = []

    def word(self) -> int:
        """Draw 64 random bits."""
        if not self._words:
            self._words = self._bits.random_raw(_BLOCK).tolist()
        return self._words.pop()

    def below(self, bound: int) -> int:
        """Draw an integer of 0 … bound − 1 (bias below 2⁻⁴⁰ for every bound used here)."""
        words = self._words
        return (words.pop() if words else self.word()) * bound >> 64

    def between(self, low: int, high: int) -> int:
        """Draw an integer of low … high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """Draw True with this probability."""
        words = self._words
        return (words.pop() if words else self.word()) < probability * _ONE

    def rounded(self, amount: float) -> int:
        """Round up or down at random so that the mean is `amount`."""
        whole = int(amount)
        return whole + self.chance(amount - whole)

    def choice(self, items: Sequence[T]) -> T:
        """Draw one item, all equally likely."""
        words = self._words
        return items[(words.pop() if words else self.word()) * len(items) >> 64]

    def weighted(self, weights: Sequence[int]) -> int:
        """Draw a position with probability proportional to its integer weight."""
        target = self.below(sum(weights))
        for position, weight in enumerate(weights):
            target -= weight
            if target < 0:
                return position
        raise ValueError(f"weights must have a positive sum, got {list(weights)}")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in random order (Fisher-Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
