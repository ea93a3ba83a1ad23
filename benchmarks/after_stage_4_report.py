"""Tables of what `benchmarks/after_stage_4.py` measured, into benchmarks/after_stage_4.md.

python benchmarks/after_stage_4_report.py
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DISTANCES = ("1", "2", "3-4", "5-8", "9-16")

Get = Callable[[dict[str, Any]], float | None]


def condition(name: str, key: str, scale: float = 100.0) -> Get:
    """Read a figure of a condition."""

    def get(split: dict[str, Any]) -> float | None:
        value = split["conditions"][name][key]
        return None if value is None else scale * value

    return get


def score(price: float) -> Get:
    """Reward greedy answers to questions about what was told: 1 for the value, `-price` for what is wrong."""

    def get(split: dict[str, Any]) -> float:
        found = split["conditions"]["memory"]
        return 100.0 * (found["outcomes"]["right"] - price * found["wrong_rate"])

    return get


def precision(split: dict[str, Any]) -> float | None:
    """Share of right answers among those to what was told that do not abstain."""
    found = split["conditions"]["memory"]
    named = 1.0 - found["absent_rate"]
    return 100.0 * found["outcomes"]["right"] / named if named else None


COLUMNS: dict[str, tuple[Get, int]] = {
    "recall": (condition("memory", "recall"), 1),
    "zeroed": (condition("zeroed", "recall"), 1),
    "shuffled": (condition("shuffled", "recall"), 1),
    "wrong": (condition("memory", "wrong_rate"), 1),
    "abstains": (condition("memory", "absent_rate"), 1),
    "right of what it names": (precision, 1),
    "right − wrong / 3": (score(1 / 3), 1),
    "right − wrong": (score(1.0), 1),
    "made up": (condition("memory", "made_up_rate"), 1),
    "perplexity": (condition("memory", "answer_perplexity", 1.0), 2),
    "words": (condition("memory", "answer_words", 1.0), 1),
}


def show(values: list[float], digits: int) -> str:
    """Write a mean, and the lowest and the highest of several."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def tables(runs: list[dict[str, Any]]) -> list[str]:
    """Make the tables of one base: figures by split, then recall by distance and the reward while it was learnt."""
    ways = list(dict.fromkeys(run["way"] for run in runs))
    of_way = {way: [run for run in runs if run["way"] == way] for way in ways}
    lines = []
    for split in runs[0]["splits"]:
        lines += [
            f"Split `{split}`:",
            "",
            f"| after stage 4 | {' | '.join(COLUMNS)} |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        for way in ways:
            found = [run["splits"][split] for run in of_way[way]]
            cells = [
                show([value for each in found if (value := get(each)) is not None], digits)
                for get, digits in COLUMNS.values()
            ]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
    first = next(iter(runs[0]["splits"]))
    lines += [
        f"Updates of each stage, seconds, recall of `{first}` by how many interactions ago the value was said, and the "
        f"reward of sampled answers in the first and the last fifth of the updates:",
        "",
        f"| after stage 4 | updates | seconds | {' | '.join(DISTANCES)} | reward |",
        "|---" * (len(DISTANCES) + 4) + "|",
    ]
    for way in ways:
        found = of_way[way]
        buckets = [run["splits"][first]["conditions"]["memory"]["recall_by_bucket"] for run in found]
        cells = [show([100 * each[name] for each in buckets if each[name] is not None], 0) for name in DISTANCES]
        updates = " + ".join(map(str, found[0].get("updates", ())))
        seconds = show([run["seconds"] for run in found], 0) if updates else ""
        lines.append(f"| {way} | {updates} | {seconds} | {' | '.join(cells)} | {rewards(found)} |")
    return [*lines, ""]


def rewards(runs: list[dict[str, Any]]) -> str:
    """Write the mean reward at the beginning and at the end."""
    traces = [run["rewards"] for run in runs if run.get("rewards")]
    if not traces:
        return ""
    ends = [(trace[: max(len(trace) // 5, 1)], trace[-max(len(trace) // 5, 1) :]) for trace in traces]
    first, last = (statistics.mean(statistics.mean(end[i]) for end in ends) for i in (0, 1))
    return f"{first:.2f} → {last:.2f}"


def main() -> None:
    """Write the tables of every base that was measured between the marks of the page."""
    page = HERE / "after_stage_4.md"
    text = page.read_text(encoding="utf-8")
    for base in ("toy", "sgd", "companion"):
        source = HERE / f"after_stage_4_{base}.jsonl"
        if source.is_file():
            runs = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
            head, rest = text.split(f"<!-- {base} -->", 1)
            tail = rest.split(f"<!-- /{base} -->", 1)[1]
            body = "\n".join(tables(runs))
            text = f"{head}<!-- {base} -->\n\n{body}\n<!-- /{base} -->{tail}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
