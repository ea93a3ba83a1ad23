"""`rxt export RUN FOLDER`: the model of a finished run, small enough to hand on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from rxt_jax.cli.options import parse
from rxt_jax.export import export_model
from rxt_jax.paths import file_size
from rxt_jax.weights import WeightDtype

__all__ = ["ExportOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write parameters, recipe, tokenizer and a model card; `chat`, `evaluate`, `--start-from` and `rxt_jax.load` take
    the folder like a run. (`rxt convert` is for checkpoints of the published implementation.)"""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or of one of its `stages/<name>`."""
    folder: Annotated[str, tyro.conf.Positional]
    """The folder to write."""
    dtype: WeightDtype = "bfloat16"
    """How parameters are stored; they are float32 again when they are loaded."""
    average_with: str | None = None
    """Another run of the same model, or one of its `stages/<name>`: write the mean of both parameters."""
    average_share: float = 0.5
    """How much of the mean is the other run."""


def run(arguments: Sequence[str]) -> int:
    """Export and say how large it is."""
    options = parse(ExportOptions, arguments, "rxt export")
    file = export_model(
        options.run,
        options.folder,
        dtype=options.dtype,
        average_with=options.average_with,
        average_share=options.average_share,
    )
    print(f"written: {options.folder}, {file_size(file) / 1e6:.1f} MB; talk to it: rxt chat {options.folder}")
    return 0
