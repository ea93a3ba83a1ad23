"""Making the next batches while the device works, in threads or in processes; their number changes nothing."""

from collections.abc import Iterator
from typing import Any

import grain

__all__ = ["read_ahead"]


def read_ahead(batches: Any, start: int, *, threads: int = 1, workers: int = 0, buffer: int = 8) -> Iterator[Any]:
    """Iterate from batch `start` while threads, or processes, prepare the next ones; their number changes nothing.

    Processes start by importing the main module anew, so a script that uses them needs `if __name__ == "__main__"`.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    if not workers:
        return iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(options))
    return _from_workers(batches, start, workers, buffer)


class _Counted:
    """Batches with what their making added to the report, which a worker process has to send home."""

    def __init__(self, batches: Any):
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return self._batches[number], self._batches.report.take()


def _from_workers(batches: Any, start: int, workers: int, buffer: int) -> Iterator[Any]:
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask for them
    counted: Any = _Counted(batches)
    data = grain.MapDataset.source(counted)[start:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    per_worker = max(buffer // workers, 1)
    iterator = iter(
        data.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_worker)
        )
    )
    try:
        for batch, counts in iterator:
            batches.report.count(**counts)
            yield batch
    finally:
        iterator.close()
