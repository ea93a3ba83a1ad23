"""`rxt evaluate RUN [--data FILE | --data hand_typed]`."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.evaluation import EvaluationConfig, HandTypedReport
from rxt_jax.run_evaluation import evaluate_run

__all__ = ["EvaluateOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure recall by distance, with memory as it is, zeroed, shuffled and frozen."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or of one of its stages: `runs/toy/stages/interaction_sft`; or `companion`."""
    data: str | None = None
    """A jsonl file of episodes instead of the run's own held-out data; its result has a folder of its own.

    `hand_typed` is the packaged file of conversations that people typed; a file of that format works as well."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: str | None = None
    """Folder that gets the `evaluation/` instead of the run's own; that of `companion` goes to `runs/companion`."""
    json: bool = False
    """Print the result as JSON and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(EvaluateOptions, arguments, "rxt evaluate")
    found = evaluate_run(options.run, data=options.data, evaluation=options.evaluation, output=options.output)
    if options.json:
        print(json.dumps(found.report.summary()))
        return 0
    console = Console()
    for table in found.tables():
        console.print(table)
    marked = ", failures marked in transcript.txt" if isinstance(found.report, HandTypedReport) else ""
    console.print(f"written: {found.folder}{marked}")
    return 0
