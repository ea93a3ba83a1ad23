"""A trace of some updates of a run, for TensorBoard (plugin `profile`) and Perfetto.

The operations of a step carry the names of its parts, `encode`, `write`, `read`, `head` and `optimizer`
(`jax.named_scope`), so that a trace says what the time went into. Source: docs.jax.dev, profiling.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from rxt_jax.paths import Outbox

__all__ = ["Profile", "Profiler"]


@dataclass(frozen=True)
class Profile:
    """Which updates of a run are traced: `count` of them behind the first `start`, counted over all stages."""

    start: int
    count: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.count < 1:
            raise ValueError(f"a profile has updates from 0 on, at least one, got {self.start}:{self.count}.")

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Read `START:COUNT`."""
        start, _, count = text.partition(":")
        if not start.isdigit() or not count.isdigit():
            raise ValueError(f"--profile must be START:COUNT, such as 10:5, got {text!r}.")
        return cls(int(start), int(count))


class Profiler:
    """Traces the updates that a profile names, into `plugins/profile/` of a folder.

    `first` is the number that update 0 of a stage has in the whole run. The first update compiles: a trace that
    begins there is mostly that.
    """

    def __init__(self, profile: Profile, folder: Path, first: int = 0):
        self._updates = range(profile.start - first, profile.start - first + profile.count)
        self._folder = folder
        self._outbox: Outbox | None = None

    @contextmanager
    def update(self, number: int) -> Iterator[None]:
        """Do an update, traced or not."""
        if number in self._updates and self._outbox is None:
            self._outbox = Outbox(self._folder)
            jax.profiler.start_trace(str(self._outbox.folder), create_perfetto_trace=True)
        if self._outbox is None:
            yield
            return
        with jax.profiler.StepTraceAnnotation("update", step_num=number):
            yield

    def finish(self, number: int, pending: Any) -> None:
        """Write the trace where update `number` was the last one of it, with everything that `pending` waits for."""
        if self._outbox is not None and number >= self._updates.stop - 1:
            self.close(pending)

    def close(self, pending: Any) -> None:
        """Write what was traced so far."""
        if self._outbox is not None:
            jax.block_until_ready(pending)
            jax.profiler.stop_trace()
            self._outbox.close()
            self._outbox = None
