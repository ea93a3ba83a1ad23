"""Metrics on the host: sums and counts from many updates, divided once."""

from typing import Any

import jax

from rxt_jax.types import Metrics

__all__ = ["MetricSums"]


class MetricSums:
    """Collects the metrics of updates without waiting for the device; `read` waits once."""

    def __init__(self) -> None:
        self._pending: list[Metrics] = []

    def add(self, metrics: Metrics) -> None:
        """Keep device values as they are."""
        self._pending.append(metrics)

    def read(self) -> dict[str, float]:
        """Divide the sums since the last read by their counts; names without a count are left out."""
        fetched: list[Any] = jax.device_get(self._pending)
        self._pending = []
        totals: dict[str, list[float]] = {}
        for metrics in fetched:
            for name, (value, count) in metrics.items():
                total = totals.setdefault(name, [0.0, 0.0])
                total[0] += float(value)
                total[1] += float(count)
        return {name: value / count for name, (value, count) in totals.items() if count > 0.0}
