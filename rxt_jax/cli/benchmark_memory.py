"""`rxt benchmark memory RUN`: what the memory of a model holds, how much, for how long."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.cli.compilation_cache import use_compilation_cache
from rxt_jax.cli.options import parse
from rxt_jax.evaluation.memory_benchmark import MemoryBenchmarkConfig, evaluate_memory, evaluate_questions
from rxt_jax.model import BaselineTransformer
from rxt_jax.paths import as_path
from rxt_jax.run_evaluation import result_folder
from rxt_jax.run_folder import load

__all__ = ["MemoryBenchmarkOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class MemoryBenchmarkOptions:
    """Measure recall by distance, capacity, overwriting, abstaining, interference, binding and retention."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or of one of its stages, or `companion`."""
    data: tuple[str, ...] = ()
    """Files whose questions are asked instead: `babi:PATH`, `sessions:PATH`, or episodes with `recall` annotations."""
    memory: MemoryBenchmarkConfig = field(default_factory=MemoryBenchmarkConfig)
    output: str | None = None
    """Folder that gets `memory.json`, `memory.md` and `memory.png` (default: `evaluation/memory` of the run, with
    `data` its `evaluation/questions`)."""
    json: bool = False
    """Print the result as JSON and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(MemoryBenchmarkOptions, arguments, "rxt benchmark memory")
    folder, stage = result_folder(options.run)
    loaded = load(options.run)
    if isinstance(loaded.model, BaselineTransformer):
        raise ValueError(f"{options.run} is the stateless baseline, which has no memory to measure; name another run.")
    use_compilation_cache()
    measured = (loaded.model, loaded.tokenizer, loaded.recipe.data)
    if options.data:
        report = evaluate_questions(*measured, options.data, options.memory)
    else:
        report = evaluate_memory(*measured, options.memory)
    part = "questions" if options.data else "memory"
    place = as_path(options.output) if options.output else folder / "evaluation" / (stage or "") / part
    report.save(place)
    if options.json:
        print(json.dumps(report.summary()))
        return 0
    console = Console()
    console.print(report.table())
    if options.data and (cut := max(row.cut_rows for row in report.rows)):
        console.print(f"{cut} interactions of a file have more tokens than the model reads at once and were cut")
    console.print(f"written: {place}")
    return 0
