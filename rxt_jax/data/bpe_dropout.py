"""BPE-dropout: the merges of a word as a BPE model makes them, each left out with some probability.

What SentencePiece does for `alpha` of a BPE model, with draws that can be repeated (`subword_sampler` says why).
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from rxt_jax.data.dialogues.draws import Draws

__all__ = ["BpeDropout"]

_REMEMBERED = 1 << 15
_LONGEST_REMEMBERED = 32  # characters; a text without spaces is one long word that will hardly come again


class BpeDropout:
    """Cut words into pieces. `scores` are those of the model's pieces: the pair of the highest is merged first."""

    def __init__(self, scores: Mapping[str, float], probability: float):
        self._scores, self._probability = scores, probability
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._whole)

    def cut(self, word: str, draws: Draws) -> Sequence[str]:
        """Draw the pieces of a word; a character that is no piece stays alone."""
        probability = self._probability
        pieces, merges = self._remembered(word) if len(word) <= _LONGEST_REMEMBERED else self._whole(word)
        # Up to the first merge that is left out all goes as without dropout, and most words have none.
        first = next((number for number in range(merges) if draws.chance(probability)), None)
        if first is None:
            return pieces
        return self._merge(word, lambda number: number == first or (number > first and draws.chance(probability)))

    def _whole(self, word: str) -> tuple[Sequence[str], int]:
        """Return the pieces of a word without dropout, and how many merges they take."""
        pieces = self._merge(word, lambda _: False)
        return pieces, len(word) - len(pieces)

    def _merge(self, word: str, is_left_out: Callable[[int], bool]) -> Sequence[str]:
        """Merge neighbours, best score first, then from the left; merge `number` is asked for in order."""
        scores, symbols = self._scores, list(word)
        before, behind = list(range(-1, len(word) - 1)), [*range(1, len(word)), -1]
        agenda: list[tuple[float, int, int, int]] = []

        def add(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                piece = symbols[left] + symbols[right]
                score = scores.get(piece)
                if score is not None:
                    heapq.heappush(agenda, (-score, left, right, len(piece)))

        for left in range(len(word) - 1):
            add(left, left + 1)
        number = 0
        while agenda:
            _, left, right, length = heapq.heappop(agenda)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of the two is part of another symbol by now
            number += 1
            if is_left_out(number - 1):
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            behind[left] = behind[right]
            if behind[right] >= 0:
                before[behind[right]] = left
            add(before[left], left)
            add(left, behind[left])
        return [symbol for symbol in symbols if symbol]
