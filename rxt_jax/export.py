"""A finished run as a folder to hand on: parameters, recipe, tokenizer and a model card, a few megabytes.

model.safetensors  recipe.json  tokenizer.model  README.md

`run_folder.load` reads it like a run; a run may start from it. The package ships one, `rxt_jax/companion/`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from flax import nnx

from rxt_jax.model_card import model_card
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.paths import as_path, read_json
from rxt_jax.recipe import Recipe
from rxt_jax.recipe_file import RECIPE_FILE, read_recipe_file
from rxt_jax.run_folder import LoadedRun, load, run_and_stage
from rxt_jax.weights import WEIGHTS_FILE, WeightDtype, write_weights

__all__ = ["CARD_FILE", "export_model"]

CARD_FILE = "README.md"


def export_model(
    run: str | Path,
    folder: str | Path,
    *,
    dtype: WeightDtype = "bfloat16",
    average_with: str | Path | None = None,
    average_share: float = 0.5,
) -> Path:
    """Write the model of a run (or of one of its stages) into a folder; return the file of its parameters.

    `average_with` names another run, of the same model and tokenizer: what is written is the mean of both parameters,
    `average_share` (in 0 … 1, both excluded) those of the other run. Useful where one has learnt something new from
    the other: the mean often has what both can. Source: Wortsman et al., "Robust fine-tuning of zero-shot models"
    (2022). Raises a `ValueError` where the two do not fit.
    The recipe stays what the run was trained with, versions included, but forgets the run's place. A model card that
    is there already stays. Raises a `FileExistsError` where the folder holds a run or a model.
    """
    if not 0 < average_share < 1:
        raise ValueError(f"average_share must lie between 0 and 1, got {average_share}; 0.5 is the plain mean")
    folder = as_path(folder)
    for name in (RECIPE_FILE, WEIGHTS_FILE):
        if (folder / name).exists():
            raise FileExistsError(f"{folder} has a {name} already; name another folder, or remove what is in this one")
    loaded = load(run)
    source, stage = run_and_stage(run)
    content = read_recipe_file(source)
    content["recipe"]["folder"] = None
    folder.mkdir(parents=True, exist_ok=True)
    loaded.tokenizer.save(folder)
    params = _parameters(loaded)
    if average_with is not None:
        params = _mean(params, loaded, average_with, average_share)
    meta = {"tokenizer": loaded.tokenizer.fingerprint, "stage": stage or list(loaded.recipe.stages)[-1]}
    write_weights(folder / WEIGHTS_FILE, params, meta, dtype)
    if not (folder / CARD_FILE).exists():
        count = sum(value.size for value in params.values())
        card = model_card(_until(loaded.recipe, stage), count, dtype, _measured(source, stage))
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    # Last, because a folder with a recipe counts as a model.
    (folder / RECIPE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder / WEIGHTS_FILE


def _parameters(loaded: LoadedRun) -> dict[str, Any]:
    return {path: variable[...] for path, variable in flat_parameters(nnx.split(loaded.model)[1]).items()}


def _until(recipe: Recipe, stage: str | None) -> Recipe:
    """Leave out the stages after one, which its parameters have not seen; None is the last one."""
    names = list(recipe.stages)
    seen = names if stage is None else names[: names.index(stage) + 1]
    return replace(recipe, stages={name: recipe.stages[name] for name in seen})


def _mean(params: dict[str, Any], loaded: LoadedRun, other: str | Path, share: float) -> dict[str, Any]:
    found = load(other)
    if found.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise ValueError(f"{other} has another tokenizer: its parameters are about other pieces and cannot be averaged")
    its = _parameters(found)
    shapes = [{path: value.shape for path, value in each.items()} for each in (params, its)]
    if shapes[0] != shapes[1]:
        different = min(path for path in params.keys() | its.keys() if shapes[0].get(path) != shapes[1].get(path))
        raise ValueError(
            f"{other} is another model: {different} is {shapes[1].get(different)} there and "
            f"{shapes[0].get(different)} here. Only parameters of one model can be averaged"
        )
    return {path: (1 - share) * value + share * its[path] for path, value in params.items()}


def _measured(source: Path, stage: str | None) -> dict[str, Any]:
    """Read the run's last evaluation, empty where there is none."""
    file = source / "evaluation" / (stage or "") / "recall.json"
    return read_json(file) if file.is_file() else {}
