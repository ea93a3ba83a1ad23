"""The memory benchmark: what a memory holds, how much of it, for how long, and how sure it is of what belongs where.

Every level of every measurement is a set of conversations that `evaluate_split` answers; this file says which and
divides what was counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rxt_jax.data.config import DataConfig, FileData
from rxt_jax.data.dialogues.spec import SPLITS
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.evaluate import evaluate_split, sample_episodes
from rxt_jax.evaluation.memory_probes import MEASUREMENTS, Level, ProbeSource, levels
from rxt_jax.evaluation.memory_report import MemoryReport, MemoryRow
from rxt_jax.evaluation.recall import BUCKETS, Recall, absences_of, guess_from_the_rest, guess_level, recalls_of
from rxt_jax.evaluation.report import ConditionResult

__all__ = ["MemoryBenchmarkConfig", "evaluate_memory", "evaluate_questions"]

_CONDITIONS = ("memory", "zeroed")
_PRIOR = 256  # conversations from which values are guessed
_ELSEWHERE = 100_000  # their first number: none of them is ever asked
_FILE = (*BUCKETS[:-1], (17, 64), (65, None))
_FAR = ((1, 16), (17, 32), (33, 64), (65, None))  # every distance has a place: nothing that is asked is left out


@dataclass(frozen=True, kw_only=True)
class MemoryBenchmarkConfig:
    """How much the benchmark asks."""

    episodes: int = 32
    """Conversations of a level, in whole batches; twice as many where each asks one question."""
    batch_size: int = 32
    """Conversations that are answered together."""
    max_new_tokens: int = 24
    """Tokens that an answer may have."""
    measurements: tuple[str, ...] = MEASUREMENTS
    """What is measured."""
    split: str = "iid"
    """Which held-out words, keys and phrasings the conversations have: a split of the embedded dialogues."""
    seed: int = 1
    """What the conversations are drawn from."""

    def __post_init__(self) -> None:
        for name in ("episodes", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        unknown = sorted(set(self.measurements) - set(MEASUREMENTS))
        if unknown or not self.measurements:
            wrong = ", ".join(unknown) or "none"
            raise ValueError(f"measurements must be among {', '.join(MEASUREMENTS)}, got {wrong}.")
        if self.split not in SPLITS[1:]:
            raise ValueError(f"split must be among {', '.join(SPLITS[1:])}, got {self.split}.")


def evaluate_memory(
    model: Any, tokenizer: Tokenizer, data: DataConfig, config: MemoryBenchmarkConfig | None = None
) -> MemoryReport:
    """Measure the memory of a model that was trained on conversations of the embedded kind.

    `data` gives the length of rows. Questions are answered greedily, from memory and with memory zeroed; the true
    conversation is what is written, so one wrong answer does not spoil the next.
    """
    config = config or MemoryBenchmarkConfig()
    rows = [
        row
        for measurement in MEASUREMENTS
        if measurement in config.measurements
        for level in levels(measurement)
        for row in _measure(model, tokenizer, data, config, level)
    ]
    return MemoryReport(rows)


def evaluate_questions(
    model: Any,
    tokenizer: Tokenizer,
    data: DataConfig,
    paths: Sequence[str],
    config: MemoryBenchmarkConfig | None = None,
) -> MemoryReport:
    """Ask the questions of files instead, by how many interactions ago the answer was said.

    paths: whatever `FileData.path` may be: `babi:PATH`, `sessions:PATH`, or a file of episodes with `recall`
    annotations (`docs/data.md`). `config` gives how many of its episodes are asked, at even distances, and how.
    Interactions that are too long lose the beginning of their question, and are counted. A `ValueError` names a file
    that asks nothing.
    """
    config = config or MemoryBenchmarkConfig()
    return MemoryReport([row for path in paths for row in _ask_file(model, tokenizer, data, path, config)])


def _ask_file(
    model: Any, tokenizer: Tokenizer, data: DataConfig, path: str, config: MemoryBenchmarkConfig
) -> list[MemoryRow]:
    source = open_source(FileData(path=path))
    wanted = _evaluation(config, config.episodes)
    episodes, _ = sample_episodes(source, wanted)
    longest = max(len(episode["interactions"]) for episode in episodes)
    asked = recalls_of(episodes, longest)
    if not asked and not absences_of(episodes, longest):
        raise ValueError(f"{path}: no interaction has a 'recall' annotation, so nothing is asked of memory")
    data = replace(data, max_interactions=longest, use_system_prompt=False, overlong="cut_input_first")
    result = evaluate_split(model, tokenizer, source, data, wanted)
    one, zeroed = (result.conditions[name] for name in _CONDITIONS)
    name = Path(path.partition(":")[2] or path).stem
    absences = _absence_rows(name, one, zeroed, result.cut_rows)
    if not asked:
        return absences
    rows = [
        _told_row(name, "all", one, zeroed, asked, guess_from_the_rest(asked), result.cut_rows),
        *_distance_rows(name, _FILE, one, zeroed, asked, guess_from_the_rest),
    ]
    # How many facts of a kind were told is not annotated in such files.
    return [*(replace(row, one_of_its_type=None) for row in rows), *absences]


def _evaluation(config: MemoryBenchmarkConfig, episodes: int) -> EvaluationConfig:
    return EvaluationConfig(
        episodes=episodes,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        conditions=_CONDITIONS,
    )


def _measure(
    model: Any, tokenizer: Tokenizer, data: DataConfig, config: MemoryBenchmarkConfig, level: Level
) -> list[MemoryRow]:
    source = ProbeSource(level, seed=config.seed, split=config.split)
    data = replace(data, max_interactions=len(source.episode(0)["interactions"]), use_system_prompt=False)
    wanted = _evaluation(config, config.episodes * (2 if level.single else 1))
    result = evaluate_split(model, tokenizer, source, data, wanted)
    asked, prior = (
        recalls_of([source.episode(first + number) for number in range(count)], data.max_interactions)
        for first, count in ((0, result.episodes), (_ELSEWHERE, _PRIOR))
    )
    one, zeroed = (result.conditions[name] for name in _CONDITIONS)

    def guess(recalls: Sequence[Recall]) -> float:
        return guess_level(recalls, prior)

    if level.by_distance:
        return _distance_rows(level.measurement, _FAR if level.long else BUCKETS, one, zeroed, asked, guess)
    told = _told_row(level.measurement, level.name, one, zeroed, asked, guess(asked), result.cut_rows)
    return [told, *_absence_rows(level.measurement, one, zeroed, result.cut_rows)]


def _told_row(
    measurement: str,
    level: str,
    one: ConditionResult,
    zeroed: ConditionResult,
    asked: Sequence[Recall],
    guess: float,
    cut_rows: int,
) -> MemoryRow:
    """Divide everything that was asked of what was told."""
    return MemoryRow(
        measurement=measurement,
        level=level,
        asked=one.asked(),
        right=one.right(),
        right_zeroed=zeroed.right(),
        guess=guess,
        one_of_its_type=_one_of_its_type(asked),
        # Only values that are asked for or replaced are known as wrong: without any, none can be counted.
        wrong_fact=one.outcomes["wrong_fact"] if any(each.others for each in asked) else None,
        absent=one.outcomes["absent"],
        cut_rows=cut_rows,
    )


def _absence_rows(measurement: str, one: ConditionResult, zeroed: ConditionResult, cut_rows: int) -> list[MemoryRow]:
    """Divide what was asked and never said.

    Whoever always abstains is right here and wrong where something was told: this row belongs to the one before.
    """
    if not one.absences[1]:
        return []
    never = MemoryRow(
        measurement=measurement,
        level="never said",
        asked=one.absences[1],
        right=one.absences[0],
        right_zeroed=zeroed.absences[0],
        cut_rows=cut_rows,
    )
    return [never]


def _distance_rows(
    measurement: str,
    buckets: Sequence[tuple[int, int | None]],
    one: ConditionResult,
    zeroed: ConditionResult,
    asked: Sequence[Recall],
    guess: Callable[[Sequence[Recall]], float],
) -> list[MemoryRow]:
    """Divide what was asked by how many interactions ago it was said; buckets in which nothing was have no row."""
    rows = []
    for low, high in buckets:
        here = [each for each in asked if low <= each.distance <= (high or each.distance)]
        right, number = _between(one, low, high)
        row = MemoryRow(
            measurement=measurement,
            level=f"{low}+ ago" if high is None else f"{low} ago" if low == high else f"{low}-{high} ago",
            asked=number,
            right=right,
            right_zeroed=_between(zeroed, low, high)[0],
            guess=guess(here),
            one_of_its_type=_one_of_its_type(here),
        )
        rows += [row] if number else []
    return rows


def _between(condition: ConditionResult, low: int, high: int | None) -> list[int]:
    """Count [right, asked] of distances from `low` to `high`."""
    found = [counts for distance, counts in condition.by_distance.items() if low <= distance <= (high or distance)]
    return [sum(column) for column in zip(*found, strict=True)] or [0, 0]


def _one_of_its_type(asked: Sequence[Recall]) -> float:
    """Give the share that is right when one of the told values of the right type is named at random."""
    return sum(1 / max(each.candidates, 1) for each in asked) / max(len(asked), 1)
