"""The memory benchmark: what a memory holds, how much of it, for how long, and how sure it is of what belongs where.

Every level of every measurement is a set of conversations that `evaluate_split` answers; this file says which and
divides what was counted.
"""

from dataclasses import dataclass, replace
from typing import Any

from rxt_jax.data.config import DataConfig
from rxt_jax.data.dialogues.spec import SPLITS
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.evaluate import evaluate_split
from rxt_jax.evaluation.memory_probes import MEASUREMENTS, Level, ProbeSource, levels
from rxt_jax.evaluation.memory_report import MemoryReport, MemoryRow
from rxt_jax.evaluation.recall import BUCKETS, Recall, guess_level, recalls_of
from rxt_jax.evaluation.report import ConditionResult

__all__ = ["MemoryBenchmarkConfig", "evaluate_memory"]

_CONDITIONS = ("memory", "zeroed")
_PRIOR = 256  # conversations from which values are guessed
_ELSEWHERE = 100_000  # their first number: none of them is ever asked
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


def _measure(
    model: Any, tokenizer: Tokenizer, data: DataConfig, config: MemoryBenchmarkConfig, level: Level
) -> list[MemoryRow]:
    source = ProbeSource(level, seed=config.seed, split=config.split)
    wanted = EvaluationConfig(
        episodes=config.episodes * (2 if level.single else 1),
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        conditions=_CONDITIONS,
    )
    data = replace(data, max_interactions=len(source.episode(0)["interactions"]), use_system_prompt=False)
    result = evaluate_split(model, tokenizer, source, data, wanted)
    asked, prior = (
        recalls_of([source.episode(first + number) for number in range(count)], data.max_interactions)
        for first, count in ((0, result.episodes), (_ELSEWHERE, _PRIOR))
    )
    one, zeroed = (result.conditions[name] for name in _CONDITIONS)
    if level.by_distance:
        buckets = _FAR if level.long else BUCKETS
        return [
            row
            for low, high in buckets
            if (row := _distance_row(level.measurement, low, high, one, zeroed, asked, prior)).asked
        ]
    told = MemoryRow(
        measurement=level.measurement,
        level=level.name,
        asked=one.asked(),
        right=one.right(),
        right_zeroed=zeroed.right(),
        guess=guess_level(asked, prior),
        one_of_its_type=_one_of_its_type(asked),
        # Only values that are asked for or replaced are known as wrong: without any, none can be counted.
        wrong_fact=one.outcomes["wrong_fact"] if any(each.others for each in asked) else None,
        absent=one.outcomes["absent"],
        cut_rows=result.cut_rows,
    )
    if not one.absences[1]:
        return [told]
    # Whoever always abstains is right here and wrong where something was told: the two rows belong together.
    never = MemoryRow(
        measurement=level.measurement,
        level="never said",
        asked=one.absences[1],
        right=one.absences[0],
        right_zeroed=zeroed.absences[0],
        cut_rows=result.cut_rows,
    )
    return [told, never]


def _distance_row(
    measurement: str,
    low: int,
    high: int | None,
    one: ConditionResult,
    zeroed: ConditionResult,
    asked: list[Recall],
    prior: list[Recall],
) -> MemoryRow:
    """Divide what was asked `low` to `high` interactions after it was said."""

    def count(condition: ConditionResult) -> list[int]:
        found = [counts for distance, counts in condition.by_distance.items() if low <= distance <= (high or distance)]
        return [sum(column) for column in zip(*found, strict=True)] or [0, 0]

    here = [each for each in asked if low <= each.distance <= (high or each.distance)]
    right, number = count(one)
    return MemoryRow(
        measurement=measurement,
        level=f"{low}+ ago" if high is None else f"{low} ago" if low == high else f"{low}-{high} ago",
        asked=number,
        right=right,
        right_zeroed=count(zeroed)[0],
        guess=guess_level(here, prior),
        one_of_its_type=_one_of_its_type(here),
    )


def _one_of_its_type(asked: list[Recall]) -> float:
    """Give the share that is right when one of the told values of the right type is named at random."""
    return sum(1 / max(each.candidates, 1) for each in asked) / max(len(asked), 1)
