"""All ways to cut a word into the pieces of a unigram model, one of them drawn.

What SentencePiece does for `alpha` of a unigram model and `nbest_size=-1`, with draws that can be repeated
(`subword_sampler` says why): a way is as likely as the product of its pieces' probabilities, to the power of alpha,
divided by the sum over all ways.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache

from rxt_jax.data.dialogues.draws import Draws

__all__ = ["UnigramLattice"]

_REMEMBERED = 1 << 15
_LONGEST_REMEMBERED = 32  # characters; a text without spaces is one long word that will hardly come again
_UNKNOWN_PENALTY = 10.0
_ONE = 1 << 64

_Ending = tuple[list[int], list[int]]
"""Where the pieces that end at a place begin, and which 64 random bits choose each: sums of probabilities · 2⁶⁴."""


class UnigramLattice:
    """Cut words into pieces. `scores` are log-probabilities of the model's pieces."""

    def __init__(self, scores: Mapping[str, float], alpha: float):
        self._weights = {piece: alpha * score for piece, score in scores.items()}
        self._unknown = alpha * (min(scores.values()) - _UNKNOWN_PENALTY)
        self._longest = max(map(len, scores))
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._endings)

    def cut(self, word: str, draws: Draws) -> Sequence[str]:
        """Draw the pieces of a word; a character that is no piece may stand alone."""
        endings = self._remembered(word) if len(word) <= _LONGEST_REMEMBERED else self._endings(word)
        pieces, stop = [], len(word)
        while stop:
            starts, sums = endings[stop]
            start = starts[bisect_right(sums, draws.word())] if sums else starts[0]
            pieces.append(word[start:stop])
            stop = start
        pieces.reverse()
        return pieces

    def _endings(self, word: str) -> list[_Ending]:
        """Sum the weights of all ways to every place; the last piece of a way is drawn by its share of them."""
        totals, endings = [0.0], [([0], [])]
        for stop in range(1, len(word) + 1):
            starts, weights = [], []
            for start in range(max(stop - self._longest, 0), stop):
                weight = self._weights.get(word[start:stop])
                if weight is None and start == stop - 1:
                    weight = self._unknown
                if weight is not None:
                    starts.append(start)
                    weights.append(totals[start] + weight)
            # Weights are logarithms: of a long word they would underflow.
            most = max(weights)
            shares = [math.exp(weight - most) for weight in weights]
            total, running, sums = sum(shares), 0.0, []
            for share in shares[:-1]:
                running += share
                sums.append(int(running / total * _ONE))
            totals.append(most + math.log(total))
            endings.append((starts, sums))
        return endings
