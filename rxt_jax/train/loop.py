"""The loop around the train step: batches in, metrics out, checkpoints on the way.

The device is never waited for except where something is reported.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rxt_jax.train.feeding import Feed
from rxt_jax.train.interruption import watch_interruptions
from rxt_jax.train.metrics import MetricSums
from rxt_jax.train.phases import Phases
from rxt_jax.train.profiling import Profiler
from rxt_jax.train.state import TrainState
from rxt_jax.types import Metrics

__all__ = ["LoopConfig", "LoopResult", "run_loop"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often things happen, in updates; 0 = never (checkpoints: at the end alone)."""

    log_every: int = 20
    """Updates between two reports of the metrics, at least 1."""
    evaluate_every: int = 0
    """Updates between two evaluations on the held-out source."""
    save_every: int = 0
    """Updates between two checkpoints."""
    sample_every: int = 0
    """Updates between two samples of conversations in `samples/`, of a stage that leads some."""

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ValueError(f"log_every must be at least 1, got {self.log_every}.")
        for name in ("evaluate_every", "save_every", "sample_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}; 0 switches it off.")


class LoopResult(NamedTuple):
    """The last state, whether all updates were done, seconds per update after compilation, and the share of each
    phase in that time (`train.phases`)."""

    state: TrainState
    finished: bool
    seconds: float
    compile_seconds: float
    time_shares: dict[str, float]


def run_loop(
    name: str,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Iterator[Any],
    *,
    start: int,
    updates: int,
    config: LoopConfig,
    place: Callable[[Any], Any],
    act: Callable[[TrainState, Any, int], Any] | None = None,
    report: Callable[[str, int, dict[str, float]], None],
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    save: Callable[[int, TrainState, dict[str, float]], None] | None = None,
    sample: Callable[[TrainState, int], None] | None = None,
    watched: tuple[str, ...] = (),
    peak_seconds: Callable[[Any], float | None] | None = None,
    profiler: Profiler | None = None,
    first: int = 0,
    quiet: bool = False,
) -> LoopResult:
    """Run updates `start … updates`; a request to stop ends it after the update under way.

    `batches` are read and placed one ahead; where a stage acts, `act(state, batch, update)` makes the batch of an
    update of what was read for it and the state before it.

    `report(split, update, metrics)` gets training and held-out metrics, `save(update, state, metrics)`
    is called every `save_every` updates, at the end, and when stopped, `sample(state, update)` every `sample_every` and
    at the end. `watched` metrics stand beside the loss.
    `peak_seconds` says how long the devices would need for a batch at their peak, from which `mfu` is reported, the
    share of the peak that is used. `first` is the number that update 0 has in the whole run, `profiler` traces some.
    """
    sums, tokens, latest, useful = MetricSums(), 0, {}, 0.0
    began = time.perf_counter()
    whole, recent = Phases(), Phases()
    compile_seconds = 0.0
    update, pending = start, None
    feed = Feed(batches, place, peak_seconds)

    def spend(name: str, seconds: float) -> None:
        whole.add(name, seconds)
        recent.add(name, seconds)

    with watch_interruptions(first) as interruption, _progress(quiet) as bar:
        task = bar.add_task(name, total=updates, completed=start, loss="-", speed="-", watched="")
        while update < updates and not interruption.requested:
            placed = feed.take(pending)
            tokens += placed.tokens
            useful += placed.peak_seconds or 0.0
            with profiler.update(update) if profiler is not None else nullcontext():
                batch = placed.batch if act is None else act(state, placed.batch, update)
                state, metrics = train_step(state, batch)
            sums.add(metrics)
            update += 1
            pending = metrics["loss"][0]
            if profiler is not None:
                profiler.finish(update - 1, pending)
            interruption.ask(update)
            feed.refill(updates - update, pending)
            if update == start + 1:
                jax.block_until_ready(metrics)
                compile_seconds = time.perf_counter() - began
                began = time.perf_counter()
                whole, recent = Phases(), Phases()
                tokens, useful, feed.idle_seconds = 0, 0.0, 0.0
            due = update % config.log_every == 0 or update == updates or interruption.requested
            if due:
                latest = sums.read()
                spend("data", feed.idle_seconds)
                seconds = max(time.perf_counter() - recent.began, 1e-9)
                latest["tokens_per_second"] = tokens / seconds
                if useful:
                    latest["mfu"] = useful / seconds
                latest |= {f"time/{name}": share for name, share in recent.shares().items()}
                tokens, useful, feed.idle_seconds, recent = 0, 0.0, 0.0, Phases()
                report("train", update, latest)
                if not math.isfinite(latest.get("loss", 0.0)):
                    bar.console.print(f"[yellow]{name}: the loss of update {update} is not finite")
                bar.update(
                    task,
                    loss=f"{latest.get('loss', float('nan')):.3f}",
                    speed=f"{latest['tokens_per_second']:,.0f}",
                    watched="  ".join(f"{each} {latest[each]:.3g}" for each in watched if each in latest),
                )
            bar.update(task, completed=update)
            held_out: dict[str, float] = {}
            if evaluate is not None and config.evaluate_every and update % config.evaluate_every == 0:
                with _timed(pending, functools.partial(spend, "evaluation")):
                    held_out = evaluate(state)
                report("held_out", update, held_out)
            if sample is not None and (update % config.sample_every == 0 or update == updates):
                with _timed(pending, functools.partial(spend, "samples")):
                    sample(state, update)
            if save is not None and config.save_every and update % config.save_every == 0 and update < updates:
                with _timed(pending, functools.partial(spend, "checkpoints")):
                    save(update, state, held_out)
        jax.block_until_ready(state.update)
        if profiler is not None:
            profiler.close(state.update)
    seconds = time.perf_counter() - began
    shares = whole.shares()
    if save is not None and update > start:
        save(update, state, {})
    per_update = seconds / max(update - start - 1, 1)
    return LoopResult(state, update >= updates, per_update, compile_seconds, shares)


@contextmanager
def _timed(pending: Any, spend: Callable[[float], None]) -> Iterator[None]:
    """Time a block that waits for the device anyway, from where the updates before it are done."""
    jax.block_until_ready(pending)
    began = time.perf_counter()
    yield
    spend(time.perf_counter() - began)


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:>18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[watched]}"),
        TextColumn("{task.fields[speed]} tokens/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=quiet,
    )
