"""`rxt evaluate RUN [--data FILE]`."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.cli.train import evaluate_run
from rxt_jax.data.config import FileData
from rxt_jax.evaluation import EvaluationConfig
from rxt_jax.run_folder import load, run_and_stage

__all__ = ["EvaluateOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure recall by distance, with memory as it is, zeroed, shuffled and frozen."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or of one of its stages: `runs/toy/stages/interaction_sft`."""
    data: str | None = None
    """A jsonl file of episodes instead of the run's own held-out data; its result has a folder of its own."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    json: bool = False
    """Print the result as JSON and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(EvaluateOptions, arguments, "rxt evaluate")
    loaded = load(options.run)
    folder, stage = run_and_stage(options.run)
    recipe = replace(loaded.recipe, evaluation=options.evaluation, folder=str(folder))
    if options.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, evaluation_source=FileData(path=options.data)))
    part = "/".join(name for name in (stage, options.data and Path(options.data).stem) if name)
    report = evaluate_run(loaded._replace(recipe=recipe), Console(quiet=options.json), part)
    if options.json:
        print(json.dumps(report.summary()))
    return 0
