"""Results of the memory benchmark: JSON, one table, one picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from rxt_jax.evaluation.report import show_share
from rxt_jax.evaluation.shares import standard_error
from rxt_jax.paths import as_path

__all__ = ["MemoryReport", "MemoryRow"]

_COLUMNS = {
    "asked": "asked",
    "right": "right",
    "standard_error": "±",
    "zeroed": "zeroed",
    "guess": "guess",
    "one_of_its_type": "one of its type",
    "wrong_fact": "wrong fact",
    "absent": "absent",
}


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """Counted answers of one level, and what answers without the right memory reach.

    `right_zeroed`: with memory zeroed. `guess`: share that is right by naming the value of its type that is most
    frequent in other conversations. `one_of_its_type`: share that is right by naming any told value of the type,
    which is what a memory reaches that holds values and not whose they are. `wrong_fact` counts answers that name
    another value that the conversation asks for, or one that was replaced; `absent` those that say it was not told.
    None is what cannot be counted.
    """

    measurement: str
    level: str
    asked: int
    right: int
    right_zeroed: int
    guess: float | None = None
    one_of_its_type: float | None = None
    wrong_fact: int | None = None
    absent: int | None = None
    cut_rows: int = 0

    def summary(self) -> dict[str, Any]:
        """Divide; shares are of `asked`."""

        def share(count: int | None) -> float | None:
            return None if count is None or not self.asked else count / self.asked

        return {
            "measurement": self.measurement,
            "level": self.level,
            "asked": self.asked,
            "right": share(self.right),
            "standard_error": standard_error(self.right, self.asked),
            "zeroed": share(self.right_zeroed),
            "guess": self.guess,
            "one_of_its_type": self.one_of_its_type,
            "wrong_fact": share(self.wrong_fact),
            "absent": share(self.absent),
            "cut_rows": self.cut_rows,
        }


@dataclass(frozen=True)
class MemoryReport:
    """All levels of all measurements, in order."""

    rows: list[MemoryRow]

    def summary(self) -> list[dict[str, Any]]:
        """Give everything as JSON values, one object per level."""
        return [row.summary() for row in self.rows]

    def table(self) -> Table:
        """Show shares in per cent in 80 columns."""
        table = Table(
            title="what memory holds, answers in %",
            caption="zeroed: right with memory zeroed; guess: the most frequent value of its\n"
            "type; any: any value of its type that was told; wrong: names a value that is\n"
            "asked for elsewhere or was replaced; absent: says it was not told",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 0, 0, 1),
        )
        table.add_column("measured", no_wrap=True)
        for name in _COLUMNS.values():
            table.add_column(
                {"one of its type": "any", "wrong fact": "wrong"}.get(name, name), justify="right", no_wrap=True
            )
        for number, (name, cells) in enumerate(self._cells(), 1):
            ends = number == len(self.rows) or self.rows[number].measurement != self.rows[number - 1].measurement
            table.add_row(name, *cells, end_section=ends)
        return table

    def markdown(self) -> str:
        """Write the table for a README or a card, shares in per cent."""
        lines = [f"| measured | {' | '.join(_COLUMNS.values())} |", "|---" * (len(_COLUMNS) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in self._cells()]
        return "\n".join(lines)

    def _cells(self) -> list[tuple[str, list[str]]]:
        found = []
        for row in self.rows:
            facts = row.summary()
            shares = [show_share(facts[name]) for name in list(_COLUMNS)[1:]]
            found.append((f"{row.measurement}, {row.level}", [str(row.asked), *shares]))
        return found

    def save(self, folder: str | Path) -> None:
        """Write `memory.json`, `memory.md` and `memory.png`."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.json").write_text(json.dumps(self.summary(), indent=1) + "\n", encoding="utf-8")
        (folder / "memory.md").write_text(self.markdown() + "\n", encoding="utf-8")
        self._plot(folder / "memory.png")

    def _plot(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        names = list(dict.fromkeys(row.measurement for row in self.rows))
        columns = min(len(names), 4)
        lines = -(-len(names) // columns)
        figure, axes = plt.subplots(
            lines, columns, figsize=(3.1 * columns, 3.0 * lines), sharey=True, squeeze=False, layout="constrained"
        )
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        for axis, name in zip(axes.flat, names, strict=False):
            facts = [row.summary() for row in self.rows if row.measurement == name]
            places = range(len(facts))
            shares = [each["right"] or 0.0 for each in facts]
            axis.bar(places, shares, yerr=[each["standard_error"] or 0.0 for each in facts], color="#6b8fb5")
            for key, style in (("one_of_its_type", "-"), ("guess", ":"), ("zeroed", "--")):
                known = [(place, each[key]) for place, each in zip(places, facts, strict=True) if each[key] is not None]
                for number, (place, share) in enumerate(known):
                    label = {"one_of_its_type": "one of its type", "zeroed": "memory zeroed"}.get(key, key)
                    color = {"one_of_its_type": "black", "guess": "grey", "zeroed": "#b5533c"}[key]
                    axis.plot(
                        (place - 0.45, place + 0.45),
                        (share, share),
                        linestyle=style,
                        color=color,
                        linewidth=1.2,
                        label=label if number == 0 else None,
                    )
            axis.set_xticks(list(places), [each["level"] for each in facts], rotation=30, ha="right", fontsize=7)
            axis.set(title=name, ylim=(0, 1.03))
        for axis in axes[:, 0]:
            axis.set_ylabel("right")
        if names:
            figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower right", frameon=False, fontsize=8)
        with path.open("wb") as file:
            figure.savefig(file, dpi=130, format="png")
        plt.close(figure)
