"""Recall of values that occur in training, and of values that never do, measured apart.

    rxt train configs/sgd/small.py && python benchmarks/sgd_unseen.py runs/sgd

Works for every run whose held-out data are a file with recall annotations. Each value that these ask for is looked for
in all training texts (what a mixture makes without end is not looked through). The same held-out episodes are then
evaluated twice, asking for the values of one kind only; the result is in `evaluation/unseen` of the run.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import Report, evaluate_baseline, evaluate_split
from rxt_jax.evaluation.unseen import by_occurrence
from rxt_jax.model import BaselineTransformer
from rxt_jax.run_folder import load, run_and_stage


@dataclass(frozen=True)
class Options:
    """What to measure."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run, or of one of its stages."""
    episodes: int | None = None
    """How many held-out episodes (None = as the recipe says)."""


def main(options: Options) -> None:
    """Measure and save."""
    model, tokenizer, recipe = load(options.run)
    data, evaluation = recipe.data, recipe.evaluation
    if options.episodes is not None:
        evaluation = replace(evaluation, episodes=options.episodes)
    sources = by_occurrence(open_source(data.evaluation_source), open_source(data.source))
    measure = evaluate_baseline if isinstance(model, BaselineTransformer) else evaluate_split
    report = Report({name: measure(model, tokenizer, source, data, evaluation) for name, source in sources.items()})
    console = Console()
    console.print(report.table())
    folder = run_and_stage(options.run)[0] / "evaluation" / "unseen"
    report.save(folder)
    console.print(f"written: {folder}")


if __name__ == "__main__":
    main(tyro.cli(Options))
