"""Ctrl-C and SIGTERM as a polite question: stop after this update, save, exit.

One process is asked by signals. Of several processes each may be asked at another moment, while a checkpoint needs all
of them at one update: there the signal is left to JAX, which agrees on an update that none has passed.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ["Interruption", "watch_interruptions"]


class Interruption:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt  # asked twice: stop at once
        self.requested = True

    def ask(self, update: int) -> None:
        """Ask, after every update, whether this is the one to stop at."""


class _AgreedInterruption(Interruption):
    """The same for several processes: all of them stop at the same update."""

    def __init__(self, first: int):
        super().__init__()
        self._first = first

    def ask(self, update: int) -> None:
        # Updates of a run: JAX compares the numbers of all processes, which may be in different stages.
        self.requested = multihost_utils.reached_preemption_sync_point(self._first + update)


@contextmanager
def watch_interruptions(first: int = 0) -> Iterator[Interruption]:
    """Catch SIGINT and SIGTERM while the block runs; only the main thread can.

    With several processes nothing is caught: a handler of ours would take SIGTERM from JAX, and the processes would
    wait for each other for ever. `first` is the number that update 0 has in the whole run.
    """
    if jax.process_count() > 1:
        yield _AgreedInterruption(first)
        return
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.signal(number, interruption) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
