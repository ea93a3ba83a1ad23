"""`rxt inspect RUN`: what a run folder or a preset holds."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from rxt_jax.cli.options import parse
from rxt_jax.model import AnyModelConfig
from rxt_jax.model.fresh_parameters import abstract_model
from rxt_jax.model.presets import PRESETS
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.paths import as_path
from rxt_jax.recipe_file import RECIPE_FILE
from rxt_jax.run_folder import stored_recipe
from rxt_jax.shipped import named_folder
from rxt_jax.weights import WEIGHTS_FILE

__all__ = ["InspectOptions", "count_parameters", "run"]


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Count the parameters of a run or of a preset, nothing is allocated; list a run's checkpoints."""

    target: Annotated[str, tyro.conf.Positional]
    """Folder of a run or of an exported model, `companion`, or the name of a preset such as rxt_alpha_micro."""
    parameters: bool = False
    """List every parameter with its shape and axes."""
    json: bool = False
    """Print JSON."""


def count_parameters(config: AnyModelConfig) -> tuple[dict[str, int], dict[str, tuple]]:
    """Return parameters per component, and path → (shape, axes), of a model that is never allocated."""
    listed, counts = {}, Counter()
    for path, variable in flat_parameters(abstract_model(config)[1]).items():
        listed[path] = (variable.shape, variable.get_metadata()["axes"])
        counts[path.split("/")[0]] += variable.size
    return dict(counts), listed


def run(arguments: Sequence[str]) -> int:
    """Inspect."""
    options = parse(InspectOptions, arguments, "rxt inspect")
    folder, checkpoints = _folder(options.target), {}
    if (folder / RECIPE_FILE).is_file():
        recipe = stored_recipe(folder)
        config = recipe.model
        for name in () if (folder / WEIGHTS_FILE).is_file() else recipe.stages:
            steps = (folder / "stages" / name).glob("[0-9]*")
            checkpoints[name] = sorted(int(step.name) for step in steps if step.name.isdigit())
    elif options.target in PRESETS:
        config = PRESETS[options.target]()
    else:
        raise FileNotFoundError(f"{folder} is no run folder and no preset; presets: {', '.join(PRESETS)}")
    counts, listed = count_parameters(config)
    if options.json:
        print(json.dumps({"parameters": counts, "checkpoints": checkpoints}))
        return 0
    console = Console()
    table = Table("component", "parameters", title=f"{options.target}: {sum(counts.values()):,} parameters")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    if options.parameters:
        table = Table("parameter", "shape", "axes")
        for path, (shape, axes) in listed.items():
            table.add_row(path, str(shape), " ".join(axes))
        console.print(table)
    for name, updates in checkpoints.items():
        console.print(f"{name}: checkpoints of updates {', '.join(map(str, updates)) or 'none'}")
    return 0


def _folder(target: str) -> Path:
    """Find a run; where no model of that name is shipped, it may still be a preset."""
    try:
        return named_folder(target)
    except FileNotFoundError:
        if target not in PRESETS:
            raise
        return as_path(target)
