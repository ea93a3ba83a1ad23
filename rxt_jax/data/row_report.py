"""The account of encoded rows: rows = used + dropped, and how many of the used ones were cut, by reason."""

import threading
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["LoadReport"]


@dataclass
class LoadReport:
    """How many rows were encoded, and what did not fit; distinct rows are not told apart.

    `cut` counts used rows that lost tokens of their `input`, their `output`, both, or their `text`. A pair is an
    interaction with a rejected answer; `pairs_dropped` are those that are not scored although they have one.
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    without_label: int = 0
    pairs: int = 0
    pairs_dropped: Counter[str] = field(default_factory=Counter)
    episodes_shortened: int = 0
    interactions_left_out: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def used(self) -> int:
        return self.rows - self.dropped.total()

    def row(self, *, cut: str | None = None, dropped: str | None = None, without_label: bool = False) -> None:
        """Count one encoded row; loaders call this from several threads."""
        with self._lock:
            self.rows += 1
            if dropped is not None:
                self.dropped[dropped] += 1
                return
            if cut is not None:
                self.cut[cut] += 1
            self.without_label += without_label

    def pair(self, dropped: str | None = None) -> None:
        """Count one pair of a chosen and a rejected answer."""
        with self._lock:
            self.pairs += 1
            if dropped is not None:
                self.pairs_dropped[dropped] += 1

    def drop(self, reason: str) -> None:
        """Take one row that was used so far out again."""
        with self._lock:
            self.dropped[reason] += 1

    def shortened(self, left_out: int) -> None:
        """Count an episode that keeps its beginning only."""
        with self._lock:
            self.episodes_shortened += 1
            self.interactions_left_out += left_out

    def count(self, **amounts: Any) -> None:
        """Add counts of another report, as `take` returns them."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def take(self) -> dict[str, Any]:
        """Return the counts and begin anew; a worker process sends them home with every batch."""
        with self._lock:
            taken = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "_lock"}
            for name, value in taken.items():
                setattr(self, name, type(value)())
        return taken

    def summary(self) -> str:
        """Say it in one line."""
        parts = [
            f"{self.rows} rows encoded = {self.used} used + {self._with_rates(self.dropped)} dropped",
            f"over-long ones cut: {self._with_rates(self.cut)}",
            f"{self.episodes_shortened} episodes shortened by {self.interactions_left_out} interactions",
        ]
        if self.without_label:
            parts.append(f"{self.without_label} rows without a label")
        if self.pairs:
            parts.append(f"{self.pairs} pairs, {with_reasons(self.pairs_dropped)} of them not scored")
        return "; ".join(parts)

    def _with_rates(self, counts: Counter[str]) -> str:
        shares = Counter({f"{reason} {100 * count / self.rows:.1f} %": count for reason, count in counts.items()})
        return with_reasons(shares)

    def as_json(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return {
            "rows": self.rows,
            "used": self.used,
            "dropped": dict(self.dropped),
            "cut": dict(self.cut),
            "without_label": self.without_label,
            "pairs": self.pairs,
            "pairs_dropped": dict(self.pairs_dropped),
            "episodes_shortened": self.episodes_shortened,
            "interactions_left_out": self.interactions_left_out,
        }


def with_reasons(counts: Counter[str]) -> str:
    """Write counts by reason, such as `3 (input: 2, output: 1)`."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    return f"{counts.total()} ({reasons})" if reasons else "0"
