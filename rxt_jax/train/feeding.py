"""Batches on their way to the device: placed one ahead, and an account of how long the device waited for them."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Feed", "Placed"]


class Placed(NamedTuple):
    """A batch on the device, its real tokens, and the seconds that it would take at the peak, if that is known."""

    batch: Any
    tokens: int
    peak_seconds: float | None = None


class Feed:
    """Places the next batch while the device works on the one before (double buffering).

    `take(pending)` returns a batch; `pending` is an array that the last update computes. `idle_seconds` adds up
    the time spent here at whose end it was ready: an upper bound of what the device was idle for want of data.
    Asking whether a result is ready waits for nothing.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        place: Callable[[Any], Any],
        peak_seconds: Callable[[Any], float | None] | None = None,
        *,
        ahead: int = 1,
    ):
        self._batches, self._place, self._peak_seconds = batches, place, peak_seconds
        self._ahead, self._placed = ahead, deque[Placed]()
        self.idle_seconds = 0.0

    def take(self, pending: Any = None) -> Placed:
        """Return the next batch; only where none is placed yet the loader is waited for."""
        began = time.perf_counter()
        if not self._placed:
            self._fetch()
        if pending is not None and pending.is_ready():
            self.idle_seconds += time.perf_counter() - began
        return self._placed.popleft()

    def refill(self, remaining: int, pending: Any = None) -> None:
        """Place what comes next; called when an update is under way, with the number of updates that are left."""
        began = time.perf_counter()
        while len(self._placed) < min(self._ahead, remaining):
            self._fetch()
        if pending is not None and pending.is_ready():
            self.idle_seconds += time.perf_counter() - began

    def _fetch(self) -> None:
        batch = next(self._batches)
        tokens = int(np.sum(batch.token_mask))
        peak = None if self._peak_seconds is None else self._peak_seconds(batch)
        self._placed.append(Placed(self._place(batch), tokens, peak))
