"""Batches by number: element u is the batch of update u, whatever came before.

Order is a function of (seed, epoch), so a run resumes by starting at its update. Grain's threads read
ahead. Batches are NumPy.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from rxt_jax.data.rows import Row, RowEncoder, stack_rows
from rxt_jax.data.sources import EpisodeSource
from rxt_jax.types import EpisodeBatch, RowBatch

__all__ = ["EpisodeBatches", "InteractionBatches", "TextBatches", "make_episode_batch", "read_ahead"]

_ENDLESS = 1 << 40


class _Order:
    """Which items are in batch u: 0, 1, 2, … of an endless source, else a new shuffle every epoch."""

    def __init__(self, size: int | None, batch_size: int, seed: int):
        if size is not None and size < batch_size:
            raise ValueError(
                f"the source has {size} episodes, fewer than batch_size = {batch_size}. Choose a smaller batch."
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch = lru_cache(maxsize=4)(self._shuffle)

    def items(self, start: int, count: int) -> list[int]:
        """Return the items `start … start + count` of the endless sequence."""
        if self.size is None:
            return list(range(start, start + count))
        whole = self.size - self.size % self.batch_size  # the rest changes with every epoch
        return [int(self._epoch(i // whole)[i % whole]) for i in range(start, start + count)]

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size or 0)


def make_episode_batch(episodes: list[list[Row]], encoder: RowEncoder, num_interactions: int) -> EpisodeBatch:
    """Stack encoded episodes to `[I B T]`, interactions that an episode does not have as filler."""
    filler = Row([encoder.special.pad], 1, valid=False)
    padded = [rows + [filler] * (num_interactions - len(rows)) for rows in episodes]
    by_interaction = [rows[i] for i in range(num_interactions) for rows in padded]
    stacked = stack_rows(by_interaction, encoder.config.max_length, encoder.special.pad)
    shape = (num_interactions, len(episodes), encoder.config.max_length)
    ids, token_mask, loss_mask = (leaf.reshape(shape) for leaf in stacked)
    valid = np.array([row.valid for row in by_interaction]).reshape(shape[:2])
    return EpisodeBatch(ids, token_mask, loss_mask, valid)


class EpisodeBatches:
    """Conversations, for history reading and stages 3 and 4."""

    def __init__(self, source: EpisodeSource, encoder: RowEncoder, *, batch_size: int, seed: int):
        self._source, self._encoder, self._batch_size = source, encoder, batch_size
        self._order = _Order(source.size, batch_size, seed)
        self._pool = lru_cache(maxsize=2)(self._sorted_pool)

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, update: int) -> EpisodeBatch:
        pool = self._encoder.config.sort_pool
        episodes = self._pool(update // pool)[update % pool]
        return make_episode_batch(
            [self._encoder.episode(episode) for episode in episodes],
            self._encoder,
            self._encoder.config.max_interactions,
        )

    def _sorted_pool(self, number: int) -> list[list[dict[str, Any]]]:
        """Draw `sort_pool` batches at once and sort their episodes by length, batches in random order."""
        size, count = self._batch_size, self._encoder.config.sort_pool
        items = self._order.items(number * size * count, size * count)
        episodes = [self._source.episode(item) for item in items]
        if count == 1:
            return [episodes]
        episodes.sort(key=lambda episode: len(episode["interactions"]))
        batches = [episodes[start : start + size] for start in range(0, len(episodes), size)]
        order = np.random.default_rng((self._order.seed, 1, number)).permutation(count)
        return [batches[i] for i in order]


class _Rows:
    """Independent rows: items u · B … of an endless sequence of rows."""

    def __init__(self, source: EpisodeSource, encoder: RowEncoder, *, batch_size: int, seed: int):
        self._source, self._encoder = source, encoder
        self._batch_size, self._seed = batch_size, seed
        self._order = _Order(source.size, batch_size, seed)

    def __len__(self) -> int:
        return _ENDLESS

    def _batch(self, update: int, rows: list[Row], length: int) -> RowBatch:
        stacked = stack_rows(rows, length, self._encoder.special.pad)
        draw = np.random.default_rng((self._seed, 2, update)).random(stacked[0].shape)
        return RowBatch(*stacked, (draw < self._encoder.config.mask_probability) & stacked[1])


class TextBatches(_Rows):
    """Plain text, for stage 1."""

    def __getitem__(self, update: int) -> RowBatch:
        start, size = update * self._batch_size, self._source.size
        items = self._order.items(start, self._batch_size)
        if size is not None:
            # Another passage of the same episode in every epoch.
            items = [item + size * ((start + n) // size) for n, item in enumerate(items)]
        rows = [self._encoder.text(self._source.text(item)) for item in items]
        return self._batch(update, rows, self._encoder.config.text_length)


class InteractionBatches(_Rows):
    """Interactions without their past, for stage 2: one of each episode drawn."""

    def __getitem__(self, update: int) -> RowBatch:
        rng = np.random.default_rng((self._seed, 3, update))
        rows = []
        for item in self._order.items(update * self._batch_size, self._batch_size):
            interactions = self._source.episode(item)["interactions"]
            rows.append(self._encoder.interaction(interactions[rng.integers(len(interactions))]))
        return self._batch(update, rows, self._encoder.config.max_length)


def read_ahead(batches: Any, start: int, *, threads: int = 1, buffer: int = 8) -> Iterator[Any]:
    """Iterate from batch `start` while threads prepare the next ones."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    data = grain.MapDataset.source(batches)[start:]
    return iter(data.to_iter_dataset(options))
