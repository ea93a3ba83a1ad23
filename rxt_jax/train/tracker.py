"""Where metrics go: a JSON-lines file and TensorBoard."""

import json
import time
from pathlib import Path

from tensorboardX import SummaryWriter

from rxt_jax.paths import LineFile, Outbox, as_path, is_remote

__all__ = ["Tracker"]


_SECONDS = 60.0
"""An object store is written to at least so often."""


class Tracker:
    """Appends to `metrics.jsonl` and to `tensorboard/` of a run; without a folder it records nothing.

    A local folder has every line at once. An object store, where files are written as a whole, has all of them at
    every `flush`, once a minute, and in the end.
    """

    def __init__(self, folder: str | Path | None):
        self._file = self._board = self._events = None
        if folder is None:
            return
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._is_remote = is_remote(folder)
        self._file = LineFile(folder / "metrics.jsonl")
        self._events = Outbox(folder / "tensorboard")
        self._board = SummaryWriter(str(self._events.folder))
        self._flushed = time.monotonic()

    def write(self, stage: str, split: str, update: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a stage at an update."""
        if self._file is None or self._board is None:
            return
        line = {"stage": stage, "split": split, "update": update} | metrics
        self._file.write(json.dumps(line))
        for name, value in metrics.items():
            self._board.add_scalar(f"{stage}/{split}/{name}", value, update)
        if time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring everything recorded so far to where it belongs. Before a checkpoint: what comes after it comes again
        where the run goes on from there."""
        if self._file is None or self._board is None or self._events is None or not self._is_remote:
            return
        self._file.flush()
        self._board.flush()
        self._events.send()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close both."""
        for each in (self._file, self._board, self._events):  # the board writes what the events send
            if each is not None:
                each.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
