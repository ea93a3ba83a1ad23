"""`rxt train CONFIG`: a recipe, any field of it from the command line, and its whole run."""

import logging
from collections.abc import Sequence

import jax
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.recipe import Recipe, load_recipe
from rxt_jax.run import run_recipe
from rxt_jax.run_evaluation import before_preferences, evaluate_run
from rxt_jax.run_folder import LoadedRun, load
from rxt_jax.run_session import write_sample

__all__ = ["run"]

_USAGE = "usage: rxt train CONFIG [--field value ...]; CONFIG is a Python file, for example configs/toy.py"


def run(arguments: Sequence[str]) -> int:
    """Train, evaluate, converse."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE + "\nrxt train CONFIG --help lists every field of the recipe.")
        return 0 if arguments else 2
    logging.getLogger("absl").setLevel(logging.ERROR)
    recipe = load_recipe(arguments[0])
    recipe = parse(Recipe, arguments[1:], f"rxt train {arguments[0]}", default=recipe)
    if recipe.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", recipe.cpu_devices)
    console = Console()
    if not run_recipe(recipe, console=console):
        return 1
    loaded = load(recipe.run_folder)
    before = before_preferences(loaded.recipe)
    if before is not None:
        console.print(f"before the preferences, {before}:")
        _evaluate(load(before)._replace(recipe=loaded.recipe), "before", console)
        console.print("after them:")
    _evaluate(loaded, "", console)
    sample = write_sample(loaded)
    if sample is not None:
        console.print("\n" + sample, highlight=False)
    console.print(f"\ntalk to it: rxt chat {recipe.run_folder}")
    return 0


def _evaluate(loaded: LoadedRun, part: str, console: Console) -> None:
    found = evaluate_run(loaded, part=part)
    for table in found.tables():
        console.print(table)
    console.print(f"written: {found.folder}")
