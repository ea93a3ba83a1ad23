"""`rxt evaluate RUN [--data FILE]`."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.cli.train import evaluate_run
from rxt_jax.data.config import FileData
from rxt_jax.evaluation import EvaluationConfig
from rxt_jax.run import load

__all__ = ["EvaluateOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure recall by distance, with memory as it is, zeroed, shuffled and frozen."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    data: str | None = None
    """A jsonl file of episodes instead of the run's own held-out data."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    json: bool = False
    """Print the result as JSON and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(EvaluateOptions, arguments, "rxt evaluate")
    loaded = load(options.run)
    recipe = replace(loaded.recipe, evaluation=options.evaluation, folder=options.run)
    if options.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, evaluation_source=FileData(path=options.data)))
    report = evaluate_run(loaded._replace(recipe=recipe), Console(quiet=options.json))
    if options.json:
        print(json.dumps(report.summary()))
    return 0
