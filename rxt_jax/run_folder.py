"""A run's folder: what it says about itself, loading a model from it, writing one into it.

recipe.json  tokenizer.model  stages/<name>/  metrics.jsonl  tensorboard/  evaluation/  samples/

An exported model (`rxt_jax/export.py`) is such a folder with `model.safetensors` in place of everything else.
Orbax is imported where checkpoints are: who loads an exported model does not wait for it.
"""

import functools
import importlib.metadata
import json
import logging
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from rxt_jax.data.config import DataConfig
from rxt_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rxt_jax.model import AnyModel, ReactiveTransformer
from rxt_jax.model.fresh_parameters import abstract_model
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.paths import as_path, replace_file
from rxt_jax.recipe import Recipe, StageRun, from_json, to_json
from rxt_jax.recipe_file import RECIPE_FILE, read_recipe_file
from rxt_jax.shipped import named_folder
from rxt_jax.stages import MemoryAware
from rxt_jax.weights import WEIGHTS_FILE, read_weights

__all__ = [
    "LoadedRun",
    "check_tokenizer",
    "claim_folder",
    "first_difference",
    "load",
    "loaded_run",
    "read_parameters",
    "run_and_stage",
    "stored_recipe",
    "write_recipe",
    "write_run",
]

_LOG = logging.getLogger("rxt_jax")


class LoadedRun(NamedTuple):
    """A trained model with everything needed to use it."""

    model: AnyModel
    tokenizer: Tokenizer
    recipe: Recipe


def load(folder: str | Path) -> LoadedRun:
    """Load a run's model with its tokenizer and recipe, the parameters in float32.

    `folder` is the run's: then the last stage that has a checkpoint counts; or one of its `stages/<name>`; or that of
    an exported model; or `"companion"`, the model that comes with the package.
    """
    opened = _open(folder)
    values = _read(opened, {})
    model = nnx.merge(opened.graphdef, with_parameters(opened.abstract, values))
    return LoadedRun(model, opened.tokenizer, opened.recipe)


def read_parameters(folder: str | Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Read parameters (path → array, float32) of whatever `load` takes, each directly to where it is to live.

    `wanted` has shapes and shardings; those that the folder's model lacks or has in another shape are left out. Of
    several processes all have to call this.
    """
    opened = _open(folder)
    found = flat_parameters(opened.abstract)
    fitting = {path: leaf for path, leaf in wanted.items() if path in found and found[path].shape == leaf.shape}
    values = _read(opened, fitting, together=True)
    return {path: values[path] for path in fitting}


class _Opened(NamedTuple):
    folder: Path
    only: str | None
    recipe: Recipe
    tokenizer: Tokenizer
    graphdef: nnx.GraphDef
    abstract: nnx.State


def _open(folder: str | Path) -> _Opened:
    folder, only = run_and_stage(folder)
    recipe = stored_recipe(folder)
    return _Opened(folder, only, recipe, load_tokenizer(folder), *abstract_model(recipe.model))


def _read(
    opened: _Opened, placed: Mapping[str, jax.ShapeDtypeStruct], *, together: bool = False
) -> dict[str, jax.Array]:
    """Read all parameters: those in `placed` as it says, the others on this process's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {
        path: placed.get(path, jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=device))
        for path, variable in flat_parameters(opened.abstract).items()
    }
    weights_file = opened.folder / WEIGHTS_FILE
    if opened.only is None and weights_file.is_file():
        weights = read_weights(weights_file, shapes)
        check_tokenizer(weights.meta, opened.tokenizer, opened.folder)
        return weights.params
    return _newest_parameters(opened.folder, opened.recipe, opened.only, opened.tokenizer, shapes, together)


def loaded_run(run: str | Path | LoadedRun) -> LoadedRun:
    """Load a run, or return the one that is loaded already."""
    return run if isinstance(run, LoadedRun) else load(run)


def _newest_parameters(
    folder: Path, recipe: Recipe, only: str | None, tokenizer: Tokenizer, shapes: dict[str, Any], together: bool
) -> dict[str, Any]:
    """Read the parameters of the last stage that has a checkpoint, or those of one stage."""
    from rxt_jax.checkpoint import CheckpointStore

    missing: list[str] = []
    for name in reversed(recipe.stages) if only is None else (only,):
        path = folder / "stages" / name
        if not path.is_dir():
            missing.insert(0, name)
            continue
        store = CheckpointStore(path, together=together)
        checkpoint = store.restore(shapes, None, functools.partial(check_tokenizer, tokenizer=tokenizer, folder=path))
        store.close()
        if checkpoint is not None:
            if missing:
                without = ", ".join(missing)
                _LOG.warning("%s: parameters of stage %s, no readable checkpoint of %s", folder, name, without)
            return checkpoint.params
        missing.insert(0, name)
    place = folder if only is None else folder / "stages" / only
    raise FileNotFoundError(f"{place} has no readable checkpoint; train it first: rxt train CONFIG")


def write_run(folder: str | Path, model: ReactiveTransformer, tokenizer: Tokenizer, *, stage: str = "imported") -> None:
    """Write a model that was not trained here as a run of one finished stage; `start_from` trains it on."""
    from rxt_jax.checkpoint import CheckpointStore

    folder = as_path(folder)
    if (folder / RECIPE_FILE).is_file():
        raise FileExistsError(f"{folder} holds a run already; name another folder")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, more than the model's {model.config.vocab_size}"
        )
    done = StageRun(stage=MemoryAware(), updates=1, batch_size=1)
    data = DataConfig(max_length=model.config.max_length, text_length=model.config.max_length)
    recipe = Recipe(name=folder.name, folder=str(folder), model=model.config, data=data, stages={stage: done})
    tokenizer.save(folder)
    write_recipe(recipe, folder)
    store = CheckpointStore(folder / "stages" / stage, streamed=True)
    flat = {path: variable[...] for path, variable in flat_parameters(nnx.split(model)[1]).items()}
    store.save(done.updates, flat, (), {"update": done.updates, "tokenizer": tokenizer.fingerprint})
    store.close()


def run_and_stage(path: str | Path) -> tuple[Path, str | None]:
    """Tell a run's folder from that of one of its stages; `"companion"` is the folder of the shipped model."""
    path = named_folder(path)
    return (path.parent.parent, path.name) if path.parent.name == "stages" else (path, None)


def claim_folder(recipe: Recipe, folder: Path) -> None:
    """Refuse a folder that holds the run of another model or tokenizer; a field that came later has its default."""
    if not (folder / RECIPE_FILE).is_file():
        return
    old = {"start_fresh": []} | read_recipe_file(folder)["recipe"]  # runs of before that field existed
    new = json.loads(json.dumps(to_json(recipe)))
    for part in ("model", "tokenizer", "seed", "start_from", "start_fresh"):
        # Read and written again, as it would be written today: a field that came with a default is no difference.
        before, now = json.loads(json.dumps(to_json(from_json(old.get(part), part)))), new[part]
        if part == "model":
            before, now = ({**each, "vocab_size": None} for each in (before, now))
        if before != now:
            raise ValueError(
                f"{folder} holds a run with another {part}: {first_difference(before, now, part)}. "
                f"Use another --folder, or the old config."
            )


def check_tokenizer(meta: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    """Refuse a checkpoint whose parameters learnt another meaning of the ids; old ones do not say."""
    trained_with = meta.get("tokenizer")
    if trained_with not in (None, tokenizer.fingerprint):
        raise ValueError(
            f"{folder} was trained with the tokenizer {trained_with[:12]}…, but that of the run folder is "
            f"{tokenizer.fingerprint[:12]}…: every id would mean something else. Put the old {MODEL_FILE} or "
            f"{JSON_FILE} back into the run folder, or train in another --folder."
        )


def stored_recipe(folder: Path) -> Recipe:
    """Read the recipe of a run's folder; errors name the file and the field."""
    content = read_recipe_file(folder)["recipe"]
    try:
        recipe = from_json(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / RECIPE_FILE}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise ValueError(f'{folder / RECIPE_FILE} holds no recipe; its field `recipe` must have the type "Recipe"')
    return recipe


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write `recipe.json` with versions and git state. A machine that goes down meanwhile leaves the old file whole."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "rxt_jax")
    versions = {name: importlib.metadata.version(name) for name in packages}
    content = {"recipe": to_json(recipe), "versions": versions, "git": _git_state()}
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / RECIPE_FILE, json.dumps(content, indent=1))


def _git_state() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def first_difference(old: Any, new: Any, place: str) -> str:
    """Name the first field in which two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{place}.{key}")
    return f"{place} was {old!r} and is {new!r}"
