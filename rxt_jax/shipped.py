"""Models that come with the package and are called by name: `companion` lies in `rxt_jax/companion/`."""

from pathlib import Path

from rxt_jax.paths import as_path
from rxt_jax.recipe_file import RECIPE_FILE

__all__ = ["SHIPPED", "is_shipped", "named_folder"]

SHIPPED = ("companion",)

_PACKAGE = Path(__file__).parent


def is_shipped(name: str | Path) -> bool:
    """Tell the name of a shipped model from a path.

    A name is a plain string; a run or a model that lies here in a folder of that name goes first, and a path
    (`./companion`, a `Path`) never means a shipped model. Other folders of that name hide nothing: evaluating the
    shipped model makes one in `runs/`.
    """
    return isinstance(name, str) and name in SHIPPED and not (as_path(name) / RECIPE_FILE).is_file()


def named_folder(name: str | Path) -> Path:
    """Give the folder that a name or a path means; it may be inside the package, so nothing is to be written there.

    Raises a `FileNotFoundError` where the name is that of a shipped model which this build does not have.
    """
    if not is_shipped(name):
        return as_path(name)
    folder = _PACKAGE / name
    if not (folder / RECIPE_FILE).is_file():
        raise FileNotFoundError(
            f"this build of rxt_jax ships no {name}. Name the folder of a run instead, or put a trained one there: "
            f"rxt export RUN {folder}"
        )
    return folder
