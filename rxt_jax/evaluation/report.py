"""Results of an evaluation, and how they are shown: a table, a JSON file, a plot."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from rxt_jax.evaluation.recall import BUCKETS, bucket_of

__all__ = ["ConditionResult", "Report", "SplitResult"]

_BUCKET_NAMES = [bucket_of(low) for low, _ in BUCKETS]


@dataclass
class ConditionResult:
    """Sums and counts under one memory condition; `by_distance` is distance → [right, asked]."""

    loss: float = 0.0
    tokens: int = 0
    correct_tokens: int = 0
    value_tokens: int = 0
    correct_value_tokens: int = 0
    values_without_tokens: int = 0
    by_distance: dict[int, list[int]] = field(default_factory=dict)

    def count_recall(self, distance: int, right: bool) -> None:
        """Add one asked value."""
        counts = self.by_distance.setdefault(distance, [0, 0])
        counts[0] += int(right)
        counts[1] += 1

    def recall(self, bucket: str | None = None) -> float | None:
        """Give the share of recalled values in a bucket (None = all), None where nothing was asked."""
        chosen = [counts for distance, counts in self.by_distance.items() if bucket in (None, bucket_of(distance))]
        asked = sum(counts[1] for counts in chosen)
        return sum(counts[0] for counts in chosen) / asked if asked else None

    def summary(self) -> dict[str, Any]:
        """Divide."""
        return {
            "answer_perplexity": math.exp(min(self.loss / max(self.tokens, 1), 50.0)),
            "answer_accuracy": self.correct_tokens / max(self.tokens, 1),
            "value_token_accuracy": self.correct_value_tokens / max(self.value_tokens, 1),
            "recall": self.recall(),
            "recall_by_bucket": {name: self.recall(name) for name in _BUCKET_NAMES},
            "recall_by_distance": {
                str(distance): right / asked for distance, (right, asked) in sorted(self.by_distance.items())
            },
            "asked_by_distance": {str(distance): asked for distance, (_, asked) in sorted(self.by_distance.items())},
        }


@dataclass
class SplitResult:
    """One set of conversations under all conditions; `chance` is the best guess without memory."""

    episodes: int
    interactions: int
    conditions: dict[str, ConditionResult]
    chance: float = 0.0
    cut_rows: int = 0
    shortened_episodes: int = 0

    def summary(self) -> dict[str, Any]:
        """Divide."""
        facts = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "conditions"}
        return facts | {"conditions": {name: result.summary() for name, result in self.conditions.items()}}


@dataclass
class Report:
    """Results of all splits."""

    splits: dict[str, SplitResult]

    def table(self) -> Table:
        """Show recall by distance, one line per split and condition."""
        table = Table(title="recall of values said earlier (greedy answers, exact match)")
        table.add_column("split")
        table.add_column("memory")
        for name in _BUCKET_NAMES:
            table.add_column(name, justify="right")
        for name in ("all", "value tokens", "perplexity"):
            table.add_column(name, justify="right")
        for split, result in self.splits.items():
            for number, (condition, one) in enumerate(result.conditions.items()):
                summary = one.summary()
                label = f"{split} (chance {result.chance:.2f})" if number == 0 else ""
                table.add_row(
                    label,
                    condition,
                    *(_share(summary["recall_by_bucket"][name]) for name in _BUCKET_NAMES),
                    _share(summary["recall"]),
                    _share(summary["value_token_accuracy"]),
                    f"{summary['answer_perplexity']:.2f}",
                    end_section=number == len(result.conditions) - 1,
                )
        return table

    def summary(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        return {name: result.summary() for name, result in self.splits.items()}

    def save(self, folder: str | Path) -> None:
        """Write `recall.json` and `recall.png`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recall.json").write_text(json.dumps(self.summary(), indent=1), encoding="utf-8")
        self._plot(folder / "recall.png")

    def _plot(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(
            1,
            len(self.splits),
            figsize=(3.6 * len(self.splits) + 0.6, 3.4),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, (split, result) in zip(axes[0], self.splits.items(), strict=True):
            for condition, one in result.conditions.items():
                points = sorted((d, right / asked) for d, (right, asked) in one.by_distance.items() if asked >= 5)
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=condition) if points else None
            axis.axhline(result.chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
            axis.set(title=split, xlabel="interactions ago", ylim=(-0.03, 1.03))
        axes[0][0].set_ylabel("recall")
        axes[0][0].legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
