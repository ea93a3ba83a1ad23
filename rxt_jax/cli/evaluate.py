"""`rxt evaluate RUN [--data FILE | --data hand_typed]`."""

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
from rxt_jax.data.hand_typed import holds_typed_conversations, read_typed_conversations
from rxt_jax.evaluation import EvaluationConfig, HandTypedReport, evaluate_hand_typed
from rxt_jax.model import BaselineTransformer
from rxt_jax.run_folder import LoadedRun, load, run_and_stage
from rxt_jax.shipped import is_shipped

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
    loaded = load(options.run)
    folder, stage = run_and_stage(options.run)
    if is_shipped(options.run):
        folder = Path("runs") / options.run  # nothing is written into an installed package
    recipe = replace(loaded.recipe, evaluation=options.evaluation, folder=options.output or str(folder))
    typed = options.data is not None and holds_typed_conversations(options.data)
    if options.data is not None and not typed:
        recipe = replace(recipe, data=replace(recipe.data, evaluation_source=FileData(path=options.data)))
    part = "/".join(name for name in (stage, options.data and Path(options.data).stem) if name)
    loaded, console = loaded._replace(recipe=recipe), Console(quiet=options.json)
    if options.data is not None and typed:
        report = _evaluate_typed(loaded, options.data, console, part)
    else:
        report = evaluate_run(loaded, console, part)
    if options.json:
        print(json.dumps(report.summary()))
    return 0


def _evaluate_typed(loaded: LoadedRun, data: str, console: Console, part: str) -> HandTypedReport:
    """Let the run answer the conversations of a file, and write result and transcript into its `evaluation/<part>`."""
    if isinstance(loaded.model, BaselineTransformer):
        raise ValueError(
            f"{data} measures what memory holds; {loaded.recipe.run_folder} is the stateless baseline, which has none"
        )
    conversations, recipe = read_typed_conversations(data), loaded.recipe
    report = evaluate_hand_typed(
        loaded.model,
        loaded.tokenizer,
        conversations,
        max_length=recipe.data.max_length,
        batch_size=recipe.evaluation.batch_size,
    )
    folder = recipe.run_folder / "evaluation" / part
    console.print(report.table())
    report.save(folder)
    console.print(f"written: {folder}, failures marked in {folder / 'transcript.txt'}")
    return report
