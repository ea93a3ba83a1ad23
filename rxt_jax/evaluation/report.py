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

from rxt_jax.evaluation.markdown import markdown_table
from rxt_jax.evaluation.outcome import OUTCOMES, abstains, judge
from rxt_jax.evaluation.recall import BUCKETS, Recall, bucket_of, contains_value
from rxt_jax.evaluation.shares import pool_distances, standard_error
from rxt_jax.paths import as_path

__all__ = ["ConditionResult", "Report", "SplitResult", "show_share"]

_BUCKET_NAMES = [bucket_of(low) for low, _ in BUCKETS]
_PLOTS_BESIDE = 4
_POINT = 20  # questions behind a point of the picture, at least where there are so many
_FAR = 16  # beyond this distance the picture counts in powers


@dataclass
class ConditionResult:
    """Sums and counts under one memory condition; `by_distance` is distance → [right, asked].

    `outcomes` counts answers to the same questions by what they are worth, `two_of_a_type` is [right, asked] of those
    where more than one fact of the type had been told, `absences` [abstained, asked] of questions about what was not,
    `words` [words, answers] of the answers to all of them.
    """

    loss: float = 0.0
    tokens: int = 0
    correct_tokens: int = 0
    value_tokens: int = 0
    correct_value_tokens: int = 0
    values_without_tokens: int = 0
    by_distance: dict[int, list[int]] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    two_of_a_type: list[int] = field(default_factory=lambda: [0, 0])
    absences: list[int] = field(default_factory=lambda: [0, 0])
    words: list[int] = field(default_factory=lambda: [0, 0])

    def count_tokens(self, losses: np.ndarray, hits: np.ndarray, scored: np.ndarray) -> None:
        """Add the scored tokens: negative log-likelihoods, and whether each was the likeliest."""
        self.loss += float(np.sum(losses[scored]))
        self.correct_tokens += int(np.sum(hits[scored]))
        self.tokens += int(scored.sum())

    def count_value(self, hits: np.ndarray | None) -> None:
        """Add the tokens of an asked value, None where the true answer does not spell it.

        Tokens that follow the first one are predicted from the true ones before them, so their share is above recall
        even for a model that guesses.
        """
        if hits is None:
            self.values_without_tokens += 1
            return
        self.value_tokens += len(hits)
        self.correct_value_tokens += int(np.sum(hits))

    def count_recall(self, recall: Recall, answer: str) -> None:
        """Add one asked value: recalled where the answer holds it; its outcome also says what else was named."""
        right = contains_value(answer, recall.value)
        _add(self.by_distance.setdefault(recall.distance, [0, 0]), right)
        self.outcomes[judge(answer, [recall.value], recall.others)] += 1
        if recall.candidates >= 2:
            _add(self.two_of_a_type, right)
        self._count_words(answer)

    def count_absence(self, answer: str) -> None:
        """Add one question about what was never said: whatever is not an abstention is made up."""
        _add(self.absences, abstains(answer))
        self._count_words(answer)

    def _count_words(self, answer: str) -> None:
        self.words[0] += len(answer.split())
        self.words[1] += 1

    def asked(self, bucket: str | None = None) -> int:
        """Count the asked values in a bucket (None = all)."""
        return sum(asked for _, asked in self._counts(bucket))

    def recall(self, bucket: str | None = None) -> float | None:
        """Give the share of recalled values in a bucket (None = all), None where nothing was asked."""
        asked = self.asked(bucket)
        return self.right(bucket) / asked if asked else None

    def right(self, bucket: str | None = None) -> int:
        """Count the recalled values in a bucket (None = all)."""
        return sum(right for right, _ in self._counts(bucket))

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
            **self._facts(),
            "standard_errors": self._standard_errors(),
        }

    def _standard_errors(self) -> dict[str, Any]:
        """Say how sure the shares are, under their names; see `shares.standard_error`."""
        abstained, never_said = self.absences
        wrong = self.outcomes["wrong_fact"] + self.outcomes["other"]
        asked = sum(self.outcomes.values())
        return {
            "recall": standard_error(self.right(), self.asked()),
            "recall_by_bucket": {name: standard_error(self.right(name), self.asked(name)) for name in _BUCKET_NAMES},
            "wrong_rate": standard_error(wrong, asked),
            "absent_rate": standard_error(self.outcomes["absent"], asked),
            "two_of_a_type": standard_error(*self.two_of_a_type),
            "made_up_rate": standard_error(never_said - abstained, never_said),
        }

    def _facts(self) -> dict[str, Any]:
        """Say what the answers that are not right say; `wrong_rate` counts all that neither are nor abstain."""
        asked = sum(self.outcomes.values())
        shares = {name: count / asked if asked else None for name, count in self.outcomes.items()}
        right, of_a_type = self.two_of_a_type
        abstained, never_said = self.absences
        words, answers = self.words
        wrong = self.outcomes["wrong_fact"] + self.outcomes["other"]
        return {
            "answer_words": words / answers if answers else None,
            "outcomes": shares,
            "wrong_rate": wrong / asked if asked else None,
            "absent_rate": shares["absent"],
            "two_of_a_type": right / of_a_type if of_a_type else None,
            "asked_two_of_a_type": of_a_type,
            "made_up_rate": 1 - abstained / never_said if never_said else None,
            "asked_never_said": never_said,
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

    def tables(self) -> list[Table]:
        """Show recall, and what answers say that do not recall."""
        return [self.table(), self.facts_table()]

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
                    *(show_share(summary["recall_by_bucket"][name]) for name in _BUCKET_NAMES),
                    show_share(summary["recall"]),
                    show_share(summary["value_token_accuracy"]),
                    f"{summary['answer_perplexity']:.4g}",
                )
            table.add_row("  chance", *[""] * len(_BUCKET_NAMES), show_share(result.chance), end_section=True)
        return table

    def facts_table(self) -> Table:
        """Show in 80 columns what the answers say that do not recall, and what is said where nothing was told."""
        table = Table(
            title="what the answers to these questions say, in %",
            caption="wrong: asserts something else, of it confused: another value of the conversation;\n"
            "absent: 'you have not told me'; two of a type: recall where several facts of\n"
            "one type were told; made up: no abstention where nothing was said",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 0, 0, 1),
        )
        table.add_column("memory", no_wrap=True)
        for name in ("right", "wrong", "of it\nconfused", "absent", "two of\na type", "made\nup"):
            table.add_column(name, justify="right", no_wrap=True)
        for split, result in self.splits.items():
            first = next(iter(result.conditions.values()))
            asked = [first.asked() or ""] + [""] * 3 + [first.two_of_a_type[1] or "", first.absences[1] or ""]
            table.add_row(f"[bold]{split}[/bold]", *(f"[grey50]{count}[/]" for count in asked))
            for number, (condition, one) in enumerate(result.conditions.items(), 1):
                facts = one.summary()
                outcomes = facts["outcomes"]
                shares = (outcomes["right"], facts["wrong_rate"], outcomes["wrong_fact"], outcomes["absent"])
                shares = (*shares, facts["two_of_a_type"], facts["made_up_rate"])
                ends = number == len(result.conditions)
                table.add_row(f"  {condition}", *map(show_share, shares), end_section=ends)
        return table

    def summary(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        return {name: result.summary() for name, result in self.splits.items()}

    def save(self, folder: str | Path) -> None:
        """Write `recall.json`, `recall.md` and `recall.png`."""
        folder, summary = as_path(folder), self.summary()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recall.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        (folder / "recall.md").write_text(markdown_table(summary) + "\n", encoding="utf-8")
        self._plot(folder / "recall.png")

    def _plot(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        columns = min(len(self.splits), _PLOTS_BESIDE)
        rows = -(-len(self.splits) // columns)
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(3.6 * columns + 0.6, 3.2 * rows + 0.2),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat[len(self.splits) :]:
            axis.set_visible(False)
        for axis, (split, result) in zip(axes.flat, self.splits.items(), strict=False):
            for condition, one in result.conditions.items():
                points = pool_distances(one.by_distance, _POINT)
                distances, shares, errors = zip(*points, strict=True) if points else ((), (), ())
                axis.errorbar(distances, shares, errors, marker="o", markersize=3, elinewidth=0.8, label=condition)
            if max((distance for one in result.conditions.values() for distance in one.by_distance), default=0) > _FAR:
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter("{x:.0f}")
            axis.axhline(result.chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
            axis.set(title=split, xlabel="interactions ago", ylim=(-0.03, 1.03))
        for axis in axes[:, 0]:
            axis.set_ylabel("recall")
        axes[0][0].legend(frameon=False, fontsize=8)
        with path.open("wb") as file:
            figure.savefig(file, dpi=130, format="png")
        plt.close(figure)


def show_share(value: float | None) -> str:
    """Write a share in percent, nothing for None."""
    return "" if value is None else f"{100 * value:.1f}" if value < 0.9995 else "100"


def _add(counts: list[int], right: bool) -> None:
    counts[0] += int(right)
    counts[1] += 1
