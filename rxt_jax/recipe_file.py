"""`recipe.json` of a run as it lies in its folder, for whoever needs no `Recipe` of it."""

from pathlib import Path
from typing import Any

from rxt_jax.paths import read_json

__all__ = ["RECIPE_FILE", "read_recipe_file"]

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
