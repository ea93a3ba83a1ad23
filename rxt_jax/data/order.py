"""Which item of a source comes when: a function of (seed, epoch), in constant memory.

An order maps the positions 0, 1, 2, … of the endless sequence of a run to *visits*. A visit is an item and
how often it was seen: `item + size · epoch` for a source of `size` items, so that a source may show another
passage of the same item in every epoch. Source: docs/method.md §13.9.

Grain is imported where it is used: it takes as long as everything else that a chat needs of this package.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from rxt_jax.data.episode_source import EpisodeSource

__all__ = ["Order", "Shard", "make_order", "order_fingerprint"]

_ENDLESS = 1 << 40
_LARGEST_EPOCH = 1 << 32  # Grain's index shuffle counts in 32 bits.
_SMALL = 1 << 16
_PROBED = 256

T = TypeVar("T")


class Order(Protocol):
    """Positions to visits."""

    def visit(self, position: int) -> int: ...

    def epoch(self, position: int) -> int: ...


@dataclass(frozen=True)
class Shard:
    """Which rows of every batch a process makes, in order; None = all of them."""

    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and (not self.rows or min(self.rows) < 0):
            raise ValueError(f"a shard is rows of a batch, at least one and counted from 0, got {self.rows}.")

    def of(self, items: Sequence[T]) -> list[T]:
        """Pick this process's items of all items of a batch."""
        return list(items) if self.rows is None else [items[row] for row in self.rows]


class _Endless:
    """0, 1, 2, … of a source without end."""

    def visit(self, position: int) -> int:
        return position

    def epoch(self, position: int) -> int:
        return 0


class _Shuffled:
    """A new permutation of all items every epoch; what does not fill a batch changes with the epoch.

    Grain's index shuffle computes one element of a permutation without making the others; of a few records it is
    slow (it walks through runs of 2¹⁶), and their permutation is small.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        if size < batch_size:
            raise ValueError(
                f"the source has {size} records, fewer than batch_size = {batch_size}. Choose a smaller one."
            )
        if size >= _LARGEST_EPOCH:
            raise ValueError(
                f"the source has {size} records; an epoch can have {_LARGEST_EPOCH - 1}. Split the source."
            )
        self._size, self._seed = size, seed
        self._used = size - size % batch_size
        self._last: tuple[int, np.ndarray | int] = (-1, 0)

    def visit(self, position: int) -> int:
        epoch, place = divmod(position, self._used)
        last, shuffle = self._last
        if last != epoch:
            shuffle = self._shuffle(epoch)
            self._last = (epoch, shuffle)
        if isinstance(shuffle, int):
            import grain

            item = grain.experimental.index_shuffle(place, max_index=self._size - 1, seed=shuffle, rounds=4)
        else:
            item = int(shuffle[place])
        return item + self._size * epoch

    def _shuffle(self, epoch: int) -> np.ndarray | int:
        """Return the permutation of a small source, the seed of the index shuffle for a large one."""
        if self._size <= _SMALL:
            return np.random.default_rng((self._seed, epoch)).permutation(self._size)
        return int(np.random.SeedSequence((self._seed, epoch)).generate_state(1)[0])

    def epoch(self, position: int) -> int:
        return position // self._used


class _Visits:
    """An order as something that Grain can mix; a visit is numbered with the source it belongs to."""

    def __init__(self, order: Order, number: int, count: int):
        self._order, self._number, self._count = order, number, count

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> int:
        return self._order.visit(index) * self._count + self._number


class _Mixed:
    """Several orders in fixed proportions, each going on where it was; visit `v · n + j` is visit v of source j."""

    def __init__(self, orders: Sequence[Order], weights: Sequence[float]):
        import grain

        visits: Any = [_Visits(order, j, len(orders)) for j, order in enumerate(orders)]
        self._mixture = grain.MapDataset.mix([grain.MapDataset.source(each) for each in visits], weights)

    def visit(self, position: int) -> int:
        return int(self._mixture[position])  # type: ignore[arg-type]

    def epoch(self, position: int) -> int:
        return 0


def make_order(source: EpisodeSource, seed: int, batch_size: int = 1) -> Order:
    """Order a source: mixed if its parts have weights, as it is if it has no end, else shuffled anew every epoch.

    A shuffled epoch is a whole number of batches: `size % batch_size` items, others each time, wait for the next.
    """
    if source.weights:
        parts = [make_order(part, _seed_of_part(seed, j)) for j, part in enumerate(source.parts)]
        return _Mixed(parts, source.weights)
    if source.size is None:
        return _Endless()
    return _Shuffled(source.size, batch_size, seed)


def order_fingerprint(order: Order) -> str:
    """Hash the beginning of an order: another version of a library that shuffles otherwise is noticed."""
    visits = np.array([order.visit(position) for position in range(_PROBED)], np.int64)
    return hashlib.sha256(visits.tobytes()).hexdigest()[:16]


def _seed_of_part(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, 0x4D4958, number)).generate_state(1)[0])
