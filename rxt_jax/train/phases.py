"""Where the time of training goes: the share of each phase, of which the updates themselves are the goodput."""

import time

__all__ = ["PHASES", "Phases"]

PHASES: tuple[str, ...] = ("step", "data", "evaluation", "samples", "checkpoints")


class Phases:
    """Seconds of each phase since a moment; what belongs to none of the others is `step`.

    `data` is how long the device waited for a batch, at most. What the host does while the device works costs nothing.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES[1:], 0.0)
        self.began = time.perf_counter()

    def add(self, name: str, seconds: float) -> None:
        """Count seconds of a phase."""
        self._seconds[name] += seconds

    def shares(self) -> dict[str, float]:
        """Return the share of every phase in the time since the beginning; together they are 1."""
        whole = max(time.perf_counter() - self.began, 1e-9)
        shares = {name: min(seconds / whole, 1.0) for name, seconds in self._seconds.items()}
        return {"step": max(1.0 - sum(shares.values()), 0.0), **shares}
