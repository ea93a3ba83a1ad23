"""`rxt convert SRC DST`: published checkpoints to runs of ours, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.compatibility import Compatibility
from rxt_jax.data.tokenizer import load_tokenizer
from rxt_jax.interop import load_rxlm, save_rxlm
from rxt_jax.run import load, run_and_stage, write_run

__all__ = ["ConvertOptions", "run"]

_BEHAVIOURS = {
    "ours": Compatibility,
    "rxlm_0_3_93": Compatibility.rxlm_0_3_93,
    "rxnn_0_2": Compatibility.rxnn_0_2,
}


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Convert a published checkpoint to a run, or a run to a published checkpoint."""

    source: Annotated[str, tyro.conf.Positional]
    """A run (or one of its `stages/<name>`), or a folder with `config.json` and `model.safetensors`."""
    destination: Annotated[str, tyro.conf.Positional]
    """The folder to write."""
    tokenizer: str | None = None
    """A folder with a tokenizer, for checkpoints that come without one."""
    behaviour: Literal["ours", "rxlm_0_3_93", "rxnn_0_2"] = "ours"
    """Whose quirks a converted model keeps; `rxnn_0_2` also permutes its legacy rotary layout."""
    variant: str | None = None
    """Memory attention of an ungated checkpoint that does not tell, for example self-interlayer."""


def run(arguments: Sequence[str]) -> int:
    """Convert; what the source is says in which direction."""
    options = parse(ConvertOptions, arguments, "rxt convert")
    source, destination = Path(options.source), Path(options.destination)
    console = Console()
    if (run_and_stage(source)[0] / "recipe.json").is_file():
        loaded = load(source)
        if (destination / "model.safetensors").is_file():
            raise FileExistsError(f"{destination} holds a checkpoint already; name another folder")
        save_rxlm(loaded.model, destination)
        loaded.tokenizer.save(destination)
        console.print(f"written: {destination}, a checkpoint for rxlm")
        return 0
    model = load_rxlm(source, compatibility=_BEHAVIOURS[options.behaviour](), variant=options.variant)
    write_run(destination, model, load_tokenizer(options.tokenizer or source))
    console.print(f"written: {destination}, a run; train it on with --start-from {destination}")
    return 0
