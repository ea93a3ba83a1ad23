"""Preferences that only memory can decide: accuracy and recall before and after DMPO, with memory and without.

    rxt train configs/toy.py && rxt train configs/toy_preference.py && python benchmarks/toy_preference.py

Reads what the run has measured and writes benchmarks/toy_preference.md.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

NOTES = (
    "The model had never answered from memory before. What has no pair (greetings, notes of what was said, questions for",
    "what was never told) is not trained by this stage, and those answers decay: it says something wherever nothing was",
    "told, and the conversation at the end of the run is hard to read. Preferences belong behind stage 4; this run only",
    "shows what they can teach.",
)


@dataclass(frozen=True)
class Options:
    """Which run."""

    run: str = "runs/toy_preference"


def main(options: Options) -> None:
    """Write the table."""
    run = Path(options.run)
    lines = [
        "# Preferences that only memory can decide",
        "",
        "`rxt train configs/toy.py && rxt train configs/toy_preference.py && python benchmarks/toy_preference.py`.",
        "The rejected answer names another value of the same kind; held-out conversations (split iid).",
        "",
        "| | pairs right with memory | zeroed | another conversation's | log p chosen | rejected | values recalled |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in (("before", "before"), ("after", "")):
        folder = run / "evaluation" / part
        preferences = json.loads((folder / "preferences.json").read_text())
        recall = json.loads((folder / "recall.json").read_text())["iid"]["conditions"]["memory"]["recall"]
        found = preferences["conditions"]
        shares = " | ".join(f"{100 * found[each]['accuracy']:.1f} %" for each in ("memory", "zeroed", "shuffled"))
        logs = " | ".join(f"{found['memory'][f'log_probs_{kind}']:.1f}" for kind in ("chosen", "rejected"))
        lines.append(f"| {name} ({preferences['pairs']} pairs) | {shares} | {logs} | {100 * recall:.1f} % |")
    updates = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    updates = [each for each in updates if each["split"] == "train"]
    lines += ["", "Gradient norms per component and accuracy of training batches:", ""]
    names = ("encoder", "memory_attention", "decoder", "embedding")
    lines += [f"| update | {' | '.join(names)} | right |", "|---" * (len(names) + 2) + "|"]
    for each in updates[:: max(len(updates) // 8, 1)]:
        norms = " | ".join(f"{each[f'gradient/{name}']:.2f}" for name in names)
        lines.append(f"| {each['update']} | {norms} | {100 * each['logps/raw_accuracy']:.1f} % |")
    lines += ["", *NOTES]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
