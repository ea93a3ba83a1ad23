"""What is wrong with a record, where rejected records go, and the account of every record read.

Strict reading stops at the first bad record. Tolerant reading writes each one with its reason to a quarantine file and
fails in the end if they were too many. Either way read = used + dropped by policy + quarantined.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rxt_jax.data.config import FaultPolicy
from rxt_jax.data.row_report import with_reasons
from rxt_jax.paths import as_path

__all__ = ["FaultLog", "ReadReport", "RecordError"]


class RecordError(ValueError):
    """A record that cannot be used: `place` (file and line), `reason` (a word to count by), `field` if one is wrong.

    `raw` is the record as it stood in the file, for the quarantine file.
    """

    def __init__(
        self, place: str, message: str, reason: str = "bad_record", field: str | None = None, raw: Any = None
    ) -> None:
        super().__init__(place, message, reason, field, raw)
        self.place, self.message, self.reason, self.field, self.raw = place, message, reason, field, raw

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass
class ReadReport:
    """How many records were read, and what became of them; reasons are words such as `not_json`."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    used: int = 0

    def drop(self, reason: str) -> None:
        """Take one record that was used so far out again, because a policy says so."""
        self.used -= 1
        self.dropped[reason] += 1

    def check(self) -> None:
        """Assert that nothing disappeared."""
        parts = self.used + self.dropped.total() + self.quarantined.total()
        if self.read != parts or self.used < 0:
            raise AssertionError(f"records got lost while reading: {self.summary()}")

    def summary(self) -> str:
        """Say it in one line."""
        return (
            f"{self.read} records read = {self.used} used + {with_reasons(self.dropped)} dropped by policy "
            f"+ {with_reasons(self.quarantined)} quarantined"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return {
            "read": self.read,
            "used": self.used,
            "dropped": dict(self.dropped),
            "quarantined": dict(self.quarantined),
            "unknown_fields": dict(self.unknown_fields),
        }

    @classmethod
    def joined(cls, reports: Iterable["ReadReport"]) -> "ReadReport":
        """Add the accounts of several sources."""
        total = cls()
        for report in reports:
            total.read += report.read
            total.used += report.used
            total.dropped += report.dropped
            total.quarantined += report.quarantined
            total.unknown_fields += report.unknown_fields
        return total


class FaultLog:
    """Decides what happens to a bad record; a context manager, because it holds the quarantine file open."""

    def __init__(self, policy: FaultPolicy, report: ReadReport, quarantine: Path | None = None):
        self.policy, self.report = policy, report
        self.path = as_path(policy.quarantine) if policy.quarantine else quarantine
        if policy.mode == "tolerant" and self.path is None:
            raise ValueError(
                "tolerant reading needs a file for what it rejects: set faults.quarantine, such as quarantine.jsonl"
            )
        self._file: TextIO | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> "FaultLog":
        if self.policy.mode == "tolerant":
            assert self.path is not None
            _check_replaceable(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")  # an empty one says that nothing was rejected
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def reject(self, error: RecordError) -> None:
        """Raise in strict mode; else count the record and write it, with its reason, to the quarantine file."""
        if self.policy.mode == "strict":
            raise error
        assert self._file is not None
        entry = {"place": error.place, "reason": error.reason, "field": error.field, "message": error.message}
        # ASCII only: what is rejected may hold half characters, which a UTF-8 file cannot.
        self._file.write(json.dumps(entry | {"record": error.raw}, default=repr) + "\n")
        self.report.quarantined[error.reason] += 1

    def unknown_field(self, name: str, place: str) -> None:
        """Count a field that nothing reads, and warn the first time."""
        self.report.unknown_fields[name] += 1
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{place}: nothing reads the field {name!r}; it is kept (said once)", stacklevel=2)

    def finish(self) -> None:
        """Check the account, and fail if the rejected records were more than the policy allows."""
        report = self.report
        report.check()
        bad = report.quarantined.total()
        if report.read and bad > self.policy.max_rate * report.read:
            raise ValueError(
                f"{bad} of {report.read} records are bad ({100 * bad / report.read:.2f} %), more than faults.max_rate "
                f"= {100 * self.policy.max_rate:g} %: {with_reasons(report.quarantined)}. They are in {self.path}."
            )


def _check_replaceable(path: Path) -> None:
    """Refuse to write over a file that is no quarantine file, such as the data itself."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = file.readline()
    if first.strip() and not first.startswith(b'{"place": '):
        raise ValueError(f"{path} exists and is no quarantine file; name another one in faults.quarantine")
