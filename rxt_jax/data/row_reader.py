"""The rows of a visit, whether they have to be tokenised or were prepared: batches do not know the difference."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

from rxt_jax.data.dialogues.draws import Draws, stream_key
from rxt_jax.data.episode_source import EpisodeSource, StoredRows
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.subword_sampler import SubwordSampler

__all__ = ["Alternatives", "Item", "Recent", "Record", "RowReader"]

T = TypeVar("T")

_SAMPLING = 6  # `loader` draws other things from 1 to 5

Alternatives = tuple[list[Row], list[Row], list[Row]]
"""Chosen, rejected and neutral rows of an episode, one each per interaction."""


class Item:
    """Rows that belong together, read when they are needed and measured without reading where that is known.

    `visit` is the visit of the source that they come from, where they are an episode's.
    """

    def __init__(
        self, read: Callable[[], list[Row]], measure: Callable[[], int] | None = None, visit: int | None = None
    ):
        self._read, self._measure, self.visit = read, measure, visit

    @property
    def is_read(self) -> bool:
        return "rows" in self.__dict__

    @cached_property
    def rows(self) -> list[Row]:
        return self._read()

    @cached_property
    def length(self) -> int:
        """Tokens of the longest row."""
        if self._measure is not None:
            return self._measure()
        return max(len(row.ids) for row in self.rows)


class Record:
    """An episode: how many rows it has, the first of them that is an interaction, and the rows of a span."""

    def __init__(self, count: int, first: int, item: Callable[[slice], Item]):
        self.count, self.first, self.item = count, first, item


class RowReader:
    """Reads the rows of a source's visits; a prepared source is checked against the run's tokenizer and settings.

    With a `seed` rows are sampled as `subword_sampling` says: how row n of a visit is cut into pieces is a function of
    (seed, visit, n) and its text. Preferences are not: two answers would differ in how their common words are cut.
    """

    def __init__(self, source: EpisodeSource, encoder: RowEncoder, seed: int | None = None):
        self.source, self.encoder = source, encoder
        self._sampler, self._key = None, 0
        strength = encoder.config.subword_sampling
        if strength and seed is not None:
            self._sampler, self._key = SubwordSampler(encoder.tokenizer, strength), stream_key(seed, _SAMPLING)
        source.check_rows(encoder, sampled=self._sampler is not None)

    def record(self, visit: int) -> Record:
        """Open the episode of a visit."""
        stored = self.source.stored_episode(visit)
        if stored is not None:
            return Record(len(stored.lengths), stored.first, lambda span: self._stored(stored, span, visit))
        episode = self._episode(visit)
        first = self.encoder.leading_rows(episode)
        numbers = range(first + len(episode["interactions"]))

        def encoded(span: slice) -> Item:
            rows = numbers[span]
            return Item(lambda: [self._encoder(visit, number).unit(episode, number) for number in rows], visit=visit)

        return Record(len(numbers), first, encoded)

    def text(self, visit: int) -> Item:
        """Open the passage of a visit."""
        stored = self.source.stored_text(visit)
        if stored is not None:
            return self._stored(stored, slice(None))
        return Item(lambda: [self._encoder(visit).text(self.source.text(visit))])

    def conversation(self, visit: int) -> Item:
        """Open the whole conversation of a visit as one row; it is tokenised, also where rows are prepared."""
        return Item(lambda: [self._encoder(visit).conversation(self._episode(visit))])

    def preferences(self, visit: int) -> Alternatives:
        """Encode the episode of a visit as chosen, rejected and neutral rows."""
        episode = self._episode(visit)
        if not any("chosen" in interaction for interaction in episode["interactions"]):
            raise ValueError(
                "the data have one answer per interaction; a preference stage needs records of the kind "
                "preference_episode or preference_pair (FileData(kind=...), or DialogueData(preferences=True))"
            )
        return self.encoder.preference_episode(episode)

    def _encoder(self, visit: int, number: int = 0) -> RowEncoder:
        """Return what encodes row `number` of a visit: sampled rows have draws of their own, whoever asks first."""
        if self._sampler is None:
            return self.encoder
        return self.encoder.sampled(self._sampler, Draws(self._key, visit << 32 | number))

    def _stored(self, stored: StoredRows, span: slice, visit: int | None = None) -> Item:
        def read() -> list[Row]:
            rows = stored.read()[span]
            for row in rows:
                self.encoder.report.row(dropped=None if row.valid else "dropped when prepared")
            return rows

        return Item(read, lambda: int(stored.lengths[span].max()), visit)

    def _episode(self, visit: int) -> dict[str, Any]:
        episode = self.source.episode(visit)
        if "interactions" not in episode:
            raise ValueError(
                "the data are plain texts, which only stage 1 can use; expected records with 'interactions'"
            )
        return episode


class Recent(Generic[T]):
    """The last few results of a function of a number, made once even where threads ask together; pickled empty."""

    def __init__(self, make: Callable[[int], T], size: int = 2):
        self._make, self._size = make, size
        self._clear()

    def _clear(self) -> None:
        self._lock, self._results = threading.Lock(), OrderedDict[int, T]()

    def __call__(self, number: int) -> T:
        with self._lock:
            if number not in self._results:
                self._results[number] = self._make(number)
                if len(self._results) > self._size:
                    self._results.popitem(last=False)
            return self._results[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self._make, "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._make, self._size = state["make"], state["size"]
        self._clear()
