"""Results of the memory retention benchmark: JSON, a table, a picture."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from rxt_jax.evaluation.report import ConditionResult, show_share
from rxt_jax.paths import as_path
from rxt_jax.rewards import RewardResult

__all__ = ["MrqCondition", "MrqReport", "MrqResult"]


@dataclass
class MrqCondition:
    """Sums under one condition, by the number of the interaction; the first one (0) is never answered."""

    interactions: int
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    """Score and components, summed over the answers of an interaction."""
    answers: np.ndarray = field(init=False)
    """How many answers of an interaction count."""
    prompt_tokens: np.ndarray = field(init=False)
    """Tokens read before they were given."""
    episode_scores: list[float] = field(default_factory=list)
    """The mean score of every conversation."""
    recall: ConditionResult = field(default_factory=ConditionResult)
    times: dict[int, dict[str, float]] = field(default_factory=dict)
    """Interaction → milliseconds of its turn, for a whole batch."""
    _batch: tuple[Any, Any] = (0.0, 0)

    def __post_init__(self) -> None:
        self.answers, self.prompt_tokens = np.zeros(self.interactions, int), np.zeros(self.interactions, int)

    def count(self, turn: int, result: RewardResult, asked: np.ndarray, prompt_tokens: np.ndarray) -> None:
        """Add the answers of a turn."""
        for name, values in {"score": result.total, **result.components}.items():
            self.sums.setdefault(name, np.zeros(self.interactions))[turn] += float(np.sum(values))
        counted = np.asarray(result.counted)
        self.answers[turn] += int(np.sum(counted))
        self.prompt_tokens[turn] += int(np.sum(prompt_tokens[asked]))
        total, number = self._batch
        self._batch = (total + np.asarray(result.total), number + counted.astype(int))

    def end_batch(self) -> None:
        """Take the conversations of a batch into the list."""
        total, number = self._batch
        means = np.asarray(total) / np.maximum(number, 1)
        self.episode_scores += means[np.asarray(number) > 0].tolist()
        self._batch = (0.0, 0)

    def mean(self, name: str) -> float | None:
        """Average a component over all answers, None without any."""
        total = int(self.answers.sum())
        return float(self.sums[name].sum()) / total if total else None

    def by_interaction(self, name: str) -> list[float | None]:
        """Average a component over the answers of each interaction, from the second on."""
        return [
            float(value) / int(count) if count else None
            for value, count in zip(self.sums[name][1:], self.answers[1:], strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Divide."""
        scores = self.episode_scores or [float("nan")]
        asked = np.maximum(self.answers[1:], 1)
        return {
            "score": float(np.mean(scores)),
            "best_episode": float(np.max(scores)),
            "worst_episode": float(np.min(scores)),
            "score_by_interaction": self.by_interaction("score"),
            "components": {name: self.mean(name) for name in self.sums if name != "score"},
            "answers": int(self.answers.sum()),
            "recall": self.recall.recall(),
            "recall_by_distance": {
                str(distance): right / count for distance, (right, count) in sorted(self.recall.by_distance.items())
            },
            "asked": self.recall.asked(),
            "prompt_tokens_by_interaction": (self.prompt_tokens[1:] / asked).tolist(),
            "times_by_interaction": [self.times[turn] for turn in sorted(self.times)],
        }


@dataclass
class MrqResult:
    """One model on one set of conversations.

    `dropped_recalls` counts values that are not asked for because their interaction is too long and was dropped,
    `cut_rows` the parts of interactions that were cut to fit: answers among them miss what the data's own hold.
    """

    conditions: dict[str, MrqCondition]
    episodes: int
    dropped_recalls: int = 0
    cut_rows: int = 0

    def summary(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        conditions = {name: one.summary() for name, one in self.conditions.items()}
        facts = {name: getattr(self, name) for name in ("episodes", "dropped_recalls", "cut_rows")}
        return facts | {"conditions": conditions}


@dataclass
class MrqReport:
    """Models on the same conversations; `config` is what was measured, as JSON values."""

    models: dict[str, MrqResult]
    config: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        return {"config": self.config, "models": {name: result.summary() for name, result in self.models.items()}}

    def table(self) -> Table:
        """Show score and recall, and the time of the first and of the last turn, in 80 columns."""
        table = Table(
            title="memory retention: score of the answers, recall of values in %",
            caption="best, worst: the mean score of a conversation\n"
            "first, last: its first and its last question\n"
            "ms: time to the first token, of a whole batch",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 0, 0, 1),
        )
        table.add_column("reads", no_wrap=True)
        for name in ("score", "best", "worst", "first", "last", "recall", "first\nms", "last\nms"):
            table.add_column(name, justify="right", no_wrap=True)
        for model, result in self.models.items():
            table.add_row(f"[bold]{model}[/bold]")
            for number, (condition, one) in enumerate(result.conditions.items(), 1):
                facts = one.summary()
                by_turn = [value for value in facts["score_by_interaction"] if value is not None] or [None]
                times = [each["first_token_ms"] for each in facts["times_by_interaction"]] or [None]
                numbers = (facts["score"], facts["best_episode"], facts["worst_episode"], by_turn[0], by_turn[-1])
                cells = ["" if value is None else f"{value:.2f}" for value in numbers]
                cells += [show_share(facts["recall"])]
                cells += ["" if value is None else f"{value:.1f}" for value in (times[0], times[-1])]
                table.add_row(f"  {condition}", *cells, end_section=number == len(result.conditions))
        return table

    def save(self, folder: str | Path) -> None:
        """Write `mrq.json` and `mrq.png`."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mrq.json").write_text(json.dumps(self.summary(), indent=1), encoding="utf-8")
        self._plot(folder / "mrq.png")

    def _plot(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, (scores, times) = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained")
        for model, result in self.models.items():
            for condition, one in result.conditions.items():
                facts, label = one.summary(), f"{model}, {condition}"
                points = [(n, value) for n, value in enumerate(facts["score_by_interaction"], 1) if value is not None]
                scores.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
                if facts["times_by_interaction"] and condition == next(iter(result.conditions)):
                    first = [each["first_token_ms"] for each in facts["times_by_interaction"]]
                    times.plot(range(1, len(first) + 1), first, marker="o", markersize=3, label=label)
        scores.set(xlabel="question of a conversation", ylabel="score")
        times.set(xlabel="question of a conversation", ylabel="ms to the first token (batch)", ylim=(0, None))
        for axis in (scores, times):
            if axis.lines:
                axis.legend(frameon=False, fontsize=7)
        with path.open("wb") as file:
            figure.savefig(file, dpi=130, format="png")
        plt.close(figure)
