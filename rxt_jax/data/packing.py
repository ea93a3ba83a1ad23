"""Several documents in one row, so that no room is filled with padding.

Documents are drawn in order into a buffer, fitted into rows (first-fit decreasing), and emitted as whole
batches; the rows that fill no batch go into the next buffer. A plan is a function of the order of the data:
resuming needs the position and the positions carried over, or walks there from the beginning.
Source: docs/method.md §13.10.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.config import PackingConfig
from rxt_jax.data.row_reader import Item
from rxt_jax.data.rows import Row
from rxt_jax.data.special_tokens import SpecialTokens

__all__ = ["PackingPlan", "first_fit_decreasing", "stack_packed"]

_REMEMBERED = 4
_HOPELESS = 10_000


def first_fit_decreasing(lengths: Sequence[int], room: int, seam: int = 0) -> list[list[int]]:
    """Fit documents into rows of `room` tokens: the longest first, each into the first row that has room for it.

    Equal lengths keep their order. `seam` tokens stand between two documents of a row.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    free = np.full(len(lengths), room, np.int64)
    bins: list[list[int]] = []
    for number in order.tolist():
        length = int(lengths[number])
        if length > room:
            raise ValueError(f"a document of {length} tokens does not fit a row of {room}.")
        fitting = free[: len(bins)] >= length + seam
        place = int(fitting.argmax()) if fitting.any() else len(bins)
        if place == len(bins):
            bins.append([])
            free[place] -= length
        else:
            free[place] -= length + seam
        bins[place].append(number)
    return bins


def stack_packed(
    bins: Sequence[Sequence[Row]], length: int, special: SpecialTokens, *, published: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Write packed rows: ids, token mask, loss mask and the document of every token, each `[rows, length]`.

    The documents of a row count from 1, padding is 0. The published form has none, an extra `[EOS]`
    between documents, and every token but the first as a target.
    """
    ids = np.full((len(bins), length), special.pad, np.int32)
    loss_mask = np.zeros(ids.shape, bool)
    documents = np.zeros(ids.shape, np.int32)
    for number, rows in enumerate(bins):
        start = 0
        for document, row in enumerate(rows, 1):
            if published and start:
                ids[number, start] = special.eos
                documents[number, start] = document - 1
                start += 1
            stop = start + len(row.ids)
            ids[number, start:stop] = row.ids
            loss_mask[number, start:stop] = row.label_list()
            documents[number, start:stop] = document
            start = stop
    token_mask = documents > 0
    if published:
        loss_mask = token_mask & (np.arange(length) > 0)
        return ids, token_mask, loss_mask, None
    return ids, token_mask, loss_mask, documents


class _Start(NamedTuple):
    """Where a buffer begins: its first update, the next position, and the positions that were left over before."""

    update: int = 0
    position: int = 0
    carried: tuple[int, ...] = ()


class _Buffer(NamedTuple):
    start: _Start
    batches: list[list[list[Item]]]
    following: _Start


class PackingPlan:
    """Which documents stand in which row of the batch of an update.

    `item(position)` opens the document at a position of the order, `epoch(position)` says which epoch that is;
    `drop(item, reason)` is told of every document that is left out. `published` leaves room for the `[EOS]` between
    documents, ends with the epoch and drops what fills no batch (`DataCompatibility.packed_documents_see_each_other`).
    """

    def __init__(
        self,
        item: Callable[[int], Item],
        epoch: Callable[[int], int],
        config: PackingConfig,
        *,
        batch_size: int,
        length: int,
        seed: int,
        drop: Callable[[Item, str], None] = lambda item, reason: None,
        published: bool = False,
    ):
        self._published = published
        self._item, self._epoch, self._drop = item, epoch, drop
        self._config, self._batch_size, self._length, self._seed = config, batch_size, length, seed
        self._starts = [_Start()]
        self._forget()

    def batch(self, update: int) -> list[list[Item]]:
        """Return the documents of every row of a batch."""
        buffer = self._find(update)
        return buffer.batches[update - buffer.start.update]

    def state(self, update: int) -> dict[str, Any]:
        """Say, in JSON, where the buffer of an update begins."""
        start = self._find(update).start
        return {"update": start.update, "position": start.position, "carried": list(start.carried)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state without walking to it."""
        with self._lock:
            self._starts = [_Start(), _Start(state["update"], state["position"], tuple(state["carried"]))]

    def _find(self, update: int) -> _Buffer:
        with self._lock:
            for buffer in self._buffers:
                if buffer.start.update <= update < buffer.following.update:
                    return buffer
            start = max((start for start in self._starts if start.update <= update), key=lambda start: start.update)
            while True:
                buffer = self._fill(start)
                start = buffer.following
                if start.update > update:
                    break
            self._buffers = [*self._buffers[1 - _REMEMBERED :], buffer]
            self._starts = [self._starts[0], *self._starts[1:][1 - _REMEMBERED :], start]
            return buffer

    def _fill(self, start: _Start) -> _Buffer:
        """Draw documents until the buffer is full, and pack them."""
        config, position = self._config, start.position
        drawn = [(each, self._left_over.get(each) or self._item(each)) for each in start.carried]
        fresh, epoch = 0, self._epoch(position)
        while fresh < config.buffer:
            if self._published and self._epoch(position) != epoch:
                break  # the published stream ends with the epoch
            item = self._item(position)
            if item.length >= config.shortest:
                drawn.append((position, item))
                fresh += 1
            else:
                self._drop(item, "too short to pack")
                if not fresh and position - start.position > _HOPELESS:
                    raise ValueError(f"no document has {config.shortest} tokens. Lower packing.shortest.")
            position += 1
        bins = first_fit_decreasing([item.length for _, item in drawn], self._length, int(self._published))
        whole = len(bins) - len(bins) % self._batch_size
        rest = [drawn[number] for each in bins[whole:] for number in each]
        order = np.arange(whole)
        if self._published:
            if not whole:
                raise ValueError(
                    f"a buffer of {config.buffer} documents fills no batch of {self._batch_size} rows, and the "
                    f"published packing drops what is left. Raise packing.buffer."
                )
            for _, item in rest:
                self._drop(item, "left over by published packing")
            rest = []
        else:
            # Bins come longest document first; training must not.
            order = np.random.default_rng((self._seed, 5, start.position)).permutation(whole)
        self._left_over = dict(rest)
        rows = [[drawn[number][1] for number in bins[place]] for place in order]
        batches = [rows[place : place + self._batch_size] for place in range(0, whole, self._batch_size)]
        following = _Start(start.update + len(batches), position, tuple(each for each, _ in rest))
        return _Buffer(start, batches, following)

    def _forget(self) -> None:
        self._lock, self._buffers, self._left_over = threading.Lock(), list[_Buffer](), dict[int, Item]()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process walks on from the last known start; locks and rows stay here.
        here = ("_lock", "_buffers", "_left_over")
        return {name: value for name, value in self.__dict__.items() if name not in here}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
