"""What the server counts, in the text format of Prometheus, and one line of log per turn without its contents."""

import json
import logging
import threading
import time
from collections.abc import Iterable

from rxt_jax.server.service import Committed, Service
from rxt_jax.server.turns import Aborted, Ended, Event, Made, Started

__all__ = ["Counters", "TurnWatch", "metrics_text"]

_LOG = logging.getLogger("rxt_jax.server.turns")
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class _Histogram:
    def __init__(self):
        self.counts, self.sum = [0] * (len(_BOUNDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[sum(seconds > bound for bound in _BOUNDS)] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterable[str]:
        total = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Counters:
    """Numbers that grow."""

    def __init__(self):
        self._lock = threading.Lock()
        self.turns: dict[str, int] = {}
        self.read_tokens = self.made_tokens = self.stateless_tokens = 0
        self.prefixes = {"hit": 0, "miss": 0}
        self.first_token, self.per_token, self.queueing = _Histogram(), _Histogram(), _Histogram()

    def turn(self, watch: "TurnWatch", outcome: str) -> None:
        """Count a turn that is over."""
        with self._lock:
            self.turns[outcome] = self.turns.get(outcome, 0) + 1
            self.read_tokens += watch.read_tokens
            self.made_tokens += watch.made
            self.stateless_tokens += watch.stateless_tokens
            if watch.started is not None:
                self.queueing.add(watch.started - watch.begun)
            if watch.first is not None and watch.last is not None:
                self.first_token.add(watch.first - watch.begun)
                if watch.made > watch.first_made:
                    self.per_token.add((watch.last - watch.first) / (watch.made - watch.first_made))

    def prefix(self, *, hit: bool) -> None:
        """Count a history that was, or was not, known."""
        with self._lock:
            self.prefixes["hit" if hit else "miss"] += 1


class TurnWatch:
    """Times of one turn; counted and logged at its end."""

    def __init__(self, counters: Counters, api: str, identity: str, owner: str):
        self._counters, self._about = counters, {"api": api, "id": identity, "key": owner}
        self.read_tokens = self.stateless_tokens = self.made = self.first_made = 0
        self.begun = time.monotonic()
        self.started: float | None = None
        self.first: float | None = None
        self.last: float | None = None

    def hear(self, event: Event | Committed) -> None:
        """Take note of an event."""
        now = time.monotonic()
        if isinstance(event, Started):
            self.started = now
        elif isinstance(event, Made):
            if self.first is None:
                self.first, self.first_made = now, len(event.ids)
            self.last, self.made = now, self.made + len(event.ids)
        elif isinstance(event, Ended):
            self._about["complete"] = event.complete  # type: ignore[assignment]
        elif isinstance(event, Committed | Aborted):
            outcome = "completed" if isinstance(event, Committed) else event.reason
            self._counters.turn(self, outcome)
            self._log(outcome, now)

    def _log(self, outcome: str, now: float) -> None:
        times = {"queue": self.started, "first_token": self.first, "last_token": self.last, "all": now}
        line = {
            **self._about,
            "outcome": outcome,
            "read_tokens": self.read_tokens,
            "made_tokens": self.made,
            "stateless_tokens": self.stateless_tokens,
            **{f"{name}_ms": round(1e3 * (at - self.begun), 1) for name, at in times.items() if at is not None},
        }
        _LOG.info(json.dumps(line))


def metrics_text(counters: Counters, service: Service) -> str:
    """Write all numbers for Prometheus."""
    engine, lines = service.engine, []

    def add(name: str, kind: str, about: str, values: Iterable[str]) -> None:
        lines.extend((f"# HELP rxt_{name} {about}", f"# TYPE rxt_{name} {kind}", *values))

    for name, about, histogram in (
        ("first_token_seconds", "From the request to its first token.", counters.first_token),
        ("token_seconds", "Per further token of a reply.", counters.per_token),
        ("queue_seconds", "From the request to a slot.", counters.queueing),
    ):
        add(name, "histogram", about, histogram.lines(f"rxt_{name}"))
    turns = [f'rxt_turns_total{{outcome="{name}"}} {count}' for name, count in sorted(counters.turns.items())]
    add("turns_total", "counter", "Turns that are over, by what became of them.", turns)
    for name, about, value in (
        ("read_tokens_total", "Tokens that were read.", counters.read_tokens),
        ("made_tokens_total", "Tokens of replies.", counters.made_tokens),
        ("stateless_tokens_total", "Tokens that a model without memory would have read.", counters.stateless_tokens),
    ):
        add(name, "counter", about, [f"rxt_{name} {value}"])
    known = [f'rxt_prefixes_total{{known="{name}"}} {count}' for name, count in counters.prefixes.items()]
    add("prefixes_total", "counter", "Histories of chat completions whose beginning was known, or was not.", known)
    for name, about, value in (
        ("queue_length", "Turns that wait for a slot.", engine.queue_length),
        ("slots", "Slots.", engine.slots),
        ("busy_slots", "Slots with a turn.", engine.busy_slots),
        ("ready", "Whether turns are served.", int(engine.is_ready)),
    ):
        add(name, "gauge", about, [f"rxt_{name} {value}"])
    sizes = service.memories.sizes()
    for name, kind, about, field in (
        ("memories", "gauge", "Memories in a tier.", "memories"),
        ("memory_bytes", "gauge", "Their bytes.", "bytes"),
        ("memory_evictions_total", "counter", "Memories that a tier has given up.", "evicted"),
    ):
        add(name, kind, about, [f'rxt_{name}{{tier="{tier}"}} {getattr(size, field)}' for tier, size in sizes.items()])
    return "\n".join(lines) + "\n"
