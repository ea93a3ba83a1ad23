"""`rxt benchmark mrq RUN [--baseline RUN] [--data FILE]`: the memory retention benchmark."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.data.config import DialogueData, FileData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation.mrq import MrqConfig, evaluate_mrq
from rxt_jax.evaluation.mrq_report import MrqReport
from rxt_jax.paths import as_path
from rxt_jax.recipe import to_json
from rxt_jax.rewards import embedding_table, make_reward_context
from rxt_jax.run_evaluation import result_folder
from rxt_jax.run_folder import load

__all__ = ["MrqOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class MrqOptions:
    """Score the answers of a model over conversations, with its memory as it is and spoilt."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or of one of its stages, or `companion`."""
    baseline: str | None = None
    """Folder of a run of the stateless baseline with the same tokenizer: it answers the same questions, reading the
    conversation as text."""
    data: str | None = None
    """A file of episodes instead of the run's own held-out data."""
    split: str = "iid"
    """Which held-out split, for the embedded dialogues."""
    mrq: MrqConfig = field(default_factory=MrqConfig)
    output: str | None = None
    """Folder that gets `mrq.json` and `mrq.png` (default: `evaluation/mrq` of the run)."""
    json: bool = False
    """Print the result as JSON and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(MrqOptions, arguments, "rxt benchmark mrq")
    loaded = load(options.run)
    folder, stage = result_folder(options.run)
    models = {"memory": loaded}
    if options.baseline is not None:
        models["baseline"] = load(options.baseline)
        if models["baseline"].tokenizer.fingerprint != loaded.tokenizer.fingerprint:
            raise ValueError(
                f"{options.baseline} has another tokenizer than {options.run}; token-id scores compare models of one "
                f"tokenizer only. Train the baseline with --start-from {options.run}."
            )
    source = loaded.recipe.data.evaluation_source
    if options.data is not None:
        source = FileData(path=options.data)
    elif isinstance(source, DialogueData):
        source = replace(source, split=options.split, seed=loaded.recipe.evaluation.seed)
    # One table for all models, or their similarities would be on different scales.
    context = make_reward_context(loaded.tokenizer, embedding_table(loaded.model))
    results = {}
    for name, each in models.items():
        data = replace(each.recipe.data, max_interactions=options.mrq.max_interactions)
        results[name] = evaluate_mrq(each.model, each.tokenizer, open_source(source), data, options.mrq, context)
    report = MrqReport(results, {"run": options.run, "baseline": options.baseline, "mrq": to_json(options.mrq)})
    place = as_path(options.output) if options.output else folder / "evaluation" / (stage or "") / "mrq"
    report.save(place)
    if options.json:
        print(json.dumps(report.summary()))
        return 0
    console = Console()
    console.print(report.table())
    console.print(f"written: {place}")
    return 0
