"""Where metrics go: a JSON-lines file and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

__all__ = ["Tracker"]


class Tracker:
    """Appends to `metrics.jsonl` and to `tensorboard/` of a run; without a folder it records nothing."""

    def __init__(self, folder: str | Path | None):
        self._file = self._board = None
        if folder is None:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, stage: str, split: str, update: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a stage at an update."""
        if self._file is None or self._board is None:
            return
        line = {"stage": stage, "split": split, "update": update} | metrics
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{stage}/{split}/{name}", value, update)

    def close(self) -> None:
        """Flush and close both."""
        for each in (self._file, self._board):
            if each is not None:
                each.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
