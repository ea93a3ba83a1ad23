"""Which earlier turn said the words of an answer."""

from collections.abc import Sequence

from rxt_jax.evaluation.recall import words_of

__all__ = ["words_said_before"]

_SHORTEST = 3  # letters: shorter words say little


def words_said_before(queries: Sequence[str], answer: str) -> dict[int, list[str]]:
    """List the words of an answer to the last of these queries by the number of the earlier query that said them.

    Words that several earlier queries said, or the last one, say nothing of where the answer came from and are left
    out. That an earlier turn said a word does not prove that the model had it from there.
    """
    spoken = [set(words_of(query).split()) for query in queries]
    said: dict[int, list[str]] = {}
    for word in dict.fromkeys(words_of(answer).split()):
        turns = [number for number, words in enumerate(spoken[:-1]) if word in words]
        if len(turns) == 1 and len(word) >= _SHORTEST and word not in spoken[-1]:
            said.setdefault(turns[0], []).append(word)
    return dict(sorted(said.items()))
