"""Results of an evaluation, and how they are shown: a table, a JSON file, a plot."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
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

    def count_tokens(self, losses: np.ndarray, hits: np.ndarray, scored: np.ndarray) -> None:
        """Add the scored tokens: negative log-likelihoods, and whether each was the likeliest."""
        self.loss += float(np.sum(losses[scored]))
        self.correct_tokens += int(np.sum(hits[scored]))
        self.tokens += int(scored.sum())

    def count_recall(self, distance: int, right: bool) -> None:
        """Add one asked value."""
        counts = self.by_distance.setdefault(distance, [0, 0])
        counts[0] += int(right)
        counts[1] += 1

    def asked(self, bucket: str | None = None) -> int:
        """Count the asked values in a bucket (None = all)."""
        return sum(asked for _, asked in self._counts(bucket))

    def recall(self, bucket: str | None = None) -> float | None:
        """Give the share of recalled values in a bucket (None = all), None where nothing was asked."""
        asked = self.asked(bucket)
        return sum(right for right, _ in self._counts(bucket)) / asked if asked else None

    def _counts(self, bucket: str | None) -> list[list[int]]:
        return [counts for distance, counts in self.by_distance.items() if bucket in (None, bucket_of(distance))]

    def summary(self) -> dict[str, Any]:
        """Divide."""
        return {
            "answer_loss": self.loss / max(self.tokens, 1),
            "answer_perplexity": math.exp(min(self.loss / max(self.tokens, 1), 50.0)),
            "answer_accuracy": self.correct_tokens / max(self.tokens, 1),
            "value_token_accuracy": self.correct_value_tokens / self.value_tokens if self.value_tokens else None,
            "recall": self.recall(),
            "recall_by_bucket": {name: self.recall(name) for name in _BUCKET_NAMES},
            "recall_by_distance": {
                str(distance): right / asked for distance, (right, asked) in sorted(self.by_distance.items())
            },
            "asked_by_distance": {str(distance): asked for distance, (_, asked) in sorted(self.by_distance.items())},
        }


@dataclass
class SplitResult:
    """One set of conversations under all conditions; `chance` is the best guess without memory.

    `dropped_recalls` counts values that are not asked for because their interaction is too long and was dropped.
    """

    episodes: int
    interactions: int
    conditions: dict[str, ConditionResult]
    chance: float = 0.0
    cut_rows: int = 0
    shortened_episodes: int = 0
    dropped_recalls: int = 0

    def summary(self) -> dict[str, Any]:
        """Divide."""
        facts = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "conditions"}
        return facts | {"conditions": {name: result.summary() for name, result in self.conditions.items()}}


@dataclass
class Report:
    """Results of all splits."""

    splits: dict[str, SplitResult]

    def table(self) -> Table:
        """Show recall by distance in 80 columns: per split how often was asked, each condition, and chance."""
        table = Table(
            title="recall of values in % by how many interactions ago they were said",
            caption="greedy replies, exact match of the value; in grey how many values were asked for",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 0, 0, 1),
        )
        table.add_column("memory", no_wrap=True)
        for name in (*_BUCKET_NAMES, "all", "value\ntokens", "answer\nperpl."):
            table.add_column(name, justify="right", no_wrap=True)
        for split, result in self.splits.items():
            asked = next(iter(result.conditions.values())).asked
            counts = (f"[grey50]{asked(name) or ''}[/]" for name in (*_BUCKET_NAMES, None))
            table.add_row(f"[bold]{split}[/bold]", *counts)
            for condition, one in result.conditions.items():
                summary = one.summary()
                table.add_row(
                    f"  {condition}",
                    *(_share(summary["recall_by_bucket"][name]) for name in _BUCKET_NAMES),
                    _share(summary["recall"]),
                    _share(summary["value_token_accuracy"]),
                    f"{summary['answer_perplexity']:.4g}",
                )
            table.add_row("  chance", *[""] * len(_BUCKET_NAMES), _share(result.chance), end_section=True)
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
    return "" if value is None else f"{100 * value:.1f}" if value < 0.9995 else "100"
