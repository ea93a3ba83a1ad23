"""Recall of values that occur in no training text, apart from recall of the others.

A value that training text holds can be guessed from what is likely; one that it does not hold has to be copied.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.records import record_texts
from rxt_jax.evaluation.recall import words_of

__all__ = ["RecallOf", "by_occurrence", "training_texts", "unseen_values"]


class RecallOf(EpisodeSource):
    """A source whose episodes ask for some of their recalled values only, and are the same otherwise."""

    def __init__(self, source: EpisodeSource, values: set[str], *, others: bool = False):
        self._source, self._values, self._others = source, values, others
        self.size, self.report, self.fingerprint = source.size, source.report, source.fingerprint

    def episode(self, visit: int) -> dict[str, Any]:
        episode = self._source.episode(visit)
        return {**episode, "interactions": [self._asking(each) for each in episode["interactions"]]}

    def text(self, visit: int) -> str:
        return self._source.text(visit)

    def _asking(self, interaction: Mapping[str, Any]) -> dict[str, Any]:
        recall = [
            each for each in interaction.get("recall") or () if (str(each["value"]) in self._values) != self._others
        ]
        return {**interaction, "recall": recall}


def by_occurrence(held_out: EpisodeSource, training: EpisodeSource) -> dict[str, EpisodeSource]:
    """Split what held-out episodes of a file ask for: values that training text holds, and values that it does not."""
    if held_out.size is None:
        raise ValueError(
            "held-out conversations without end cannot be listed; name a file, or use their split unseen_values"
        )
    values = (
        str(each["value"])
        for visit in range(held_out.size)
        for interaction in held_out.episode(visit)["interactions"]
        for each in interaction.get("recall") or ()
    )
    unseen = unseen_values(values, training_texts(training))
    return {
        "values in training": RecallOf(held_out, unseen, others=True),
        "values never seen": RecallOf(held_out, unseen),
    }


def training_texts(source: EpisodeSource) -> Iterator[str]:
    """Yield every text that a model may see of a source; the parts of a mixture one after the other.

    Conversations that are made without end cannot be listed and yield nothing.
    """
    if source.size is None:
        for part in source.parts:
            yield from training_texts(part)
        return
    for visit in range(source.size):
        yield from record_texts(source.episode(visit))


def unseen_values(values: Iterable[str], texts: Iterable[str]) -> set[str]:
    """Return the values that no text holds as a run of whole words, case and punctuation aside."""
    waiting: dict[str, dict[str, set[str]]] = {}  # first word → words of a value → the values that are written so
    for value in values:
        words = words_of(value)
        waiting.setdefault(words.partition(" ")[0], {}).setdefault(f" {words} ", set()).add(value)
    for text in texts:
        if not waiting:
            break
        text = f" {words_of(text)} "
        for first in waiting.keys() & set(text.split()):
            left = {words: written for words, written in waiting[first].items() if words not in text}
            if left:
                waiting[first] = left
            else:
                del waiting[first]
    return {value for found in waiting.values() for written in found.values() for value in written}
