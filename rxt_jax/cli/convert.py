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
from rxt_jax.interop.hub import download, is_hub, uploaded
from rxt_jax.model import ReactiveTransformer
from rxt_jax.paths import as_path
from rxt_jax.run_folder import load, run_and_stage, write_run
from rxt_jax.shipped import named_folder

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
    """A run (or one of its `stages/<name>`), a folder with `config.json` and `model.safetensors`, or one of these on
    the Hub, `hf://owner/name` (needs the extra `hub`)."""
    destination: Annotated[str, tyro.conf.Positional]
    """The folder to write, or `hf://owner/name`."""
    tokenizer: str | None = None
    """A folder with a tokenizer, for checkpoints that come without one."""
    behaviour: Literal["ours", "rxlm_0_3_93", "rxnn_0_2"] = "ours"
    """Whose quirks a converted model keeps; `rxnn_0_2` also permutes its legacy rotary layout."""
    variant: str | None = None
    """Memory attention of an ungated checkpoint that does not tell, for example self-interlayer."""


def run(arguments: Sequence[str]) -> int:
    """Convert; what the source is says in which direction."""
    options = parse(ConvertOptions, arguments, "rxt convert")
    source = download(options.source) if is_hub(options.source) else named_folder(options.source)
    if not is_hub(options.destination):
        written = _convert(source, as_path(options.destination), options)
    else:
        with uploaded(options.destination) as folder:
            written = _convert(source, folder, options)
    hint = f"a run; train it on with --start-from {options.destination}"
    Console().print(f"written: {options.destination}, {hint if written == 'run' else 'a checkpoint for rxlm'}")
    return 0


def _convert(source: Path, destination: Path, options: ConvertOptions) -> Literal["run", "checkpoint"]:
    """Convert between folders; say what was written."""
    if not (run_and_stage(source)[0] / "recipe.json").is_file():
        model = load_rxlm(source, compatibility=_BEHAVIOURS[options.behaviour](), variant=options.variant)
        write_run(destination, model, load_tokenizer(options.tokenizer or source))
        return "run"
    loaded = load(source)
    if (destination / "model.safetensors").is_file():
        raise FileExistsError(f"{destination} holds a checkpoint already; name another folder")
    if not isinstance(loaded.model, ReactiveTransformer):
        raise ValueError(f"{source} holds a stateless baseline; save_rxlm writes Reactive Transformers alone")
    save_rxlm(loaded.model, destination)
    loaded.tokenizer.save(destination)
    return "checkpoint"
