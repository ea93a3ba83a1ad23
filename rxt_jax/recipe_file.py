"""`recipe.json` of a run: its recipe, and the versions and the git state that it was made with."""

import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from rxt_jax.paths import read_json, replace_file
from rxt_jax.recipe import Recipe, from_json, to_json

__all__ = ["RECIPE_FILE", "read_recipe_file", "stored_recipe", "write_recipe"]

RECIPE_FILE = "recipe.json"


def read_recipe_file(folder: Path) -> dict[str, Any]:
    """Read the `recipe.json` of a run's folder as it stands: `recipe`, and perhaps `versions` and `git`.

    A folder without one is a `FileNotFoundError`, a file that holds something else a `ValueError` that names it.
    """
    file = folder / RECIPE_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no {RECIPE_FILE}")
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise ValueError(f"{file} holds no recipe; expected what a run writes, an object with a field `recipe`")
    return content


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
