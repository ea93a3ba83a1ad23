"""`rxt train CONFIG`: a recipe, any field of it from the command line, and its whole run, in one process or in many."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from rich.console import Console

from rxt_jax.cli.options import parse, split_arguments
from rxt_jax.processes import end_together, is_writer, order_collectives, start_processes, wait_for_all
from rxt_jax.recipe import Recipe, load_recipe
from rxt_jax.run import run_recipe
from rxt_jax.run_evaluation import before_preferences, evaluate_run
from rxt_jax.run_folder import LoadedRun, load
from rxt_jax.run_session import write_sample
from rxt_jax.train.profiling import Profile

__all__ = ["LaunchOptions", "run"]

_USAGE = """usage: rxt train CONFIG [--field value ...]; CONFIG is a Python file, for example configs/toy.py

  --coordinator HOST:PORT --processes N --process I
                        one of N processes that train together, I from 0; HOST is that of process 0. TPU pods, SLURM
                        and Open MPI need none of these (docs/scaling.md).
  --profile START:COUNT trace COUNT updates behind the first START into tensorboard/ of the run

rxt train CONFIG --help lists every field of the recipe."""


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How a run is started; it changes nothing of what it computes, so no recipe knows of it."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """How many processes train together."""
    process: int | None = None
    """Which one of them this is, from 0."""
    profile: str | None = None
    """START:COUNT, the updates of the run to trace."""


def run(arguments: Sequence[str]) -> int:
    """Train, evaluate, converse."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    logging.getLogger("absl").setLevel(logging.ERROR)
    mine, rest = split_arguments(LaunchOptions, arguments[1:])
    launch = parse(LaunchOptions, mine, "rxt train CONFIG")
    profile = None if launch.profile is None else Profile.parse(launch.profile)
    recipe = load_recipe(arguments[0])
    recipe = parse(Recipe, rest, f"rxt train {arguments[0]}", default=recipe)
    if recipe.cpu_devices is not None:
        # With a single thread to share, devices of the CPU wait for each other for ever.
        devices = recipe.cpu_devices if _usable_cores() > 1 else 1
        jax.config.update("jax_num_cpu_devices", devices)
        if devices > 1:
            order_collectives()
    start_processes(launch.coordinator, launch.processes, launch.process)
    with end_together("rxt train"):
        console = Console()
        if not run_recipe(recipe, console=console, profile=profile):
            return 1
        if is_writer():
            _show(recipe, console)
        # Process 0 measures on devices of its own; the others may not leave before, or it would be ended too.
        wait_for_all("measured")
    return 0


def _usable_cores() -> int:
    """Count the cores that this process may use, which a container or `taskset` may have cut down."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _show(recipe: Recipe, console: Console) -> None:
    """Evaluate the run and let it converse."""
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


def _evaluate(loaded: LoadedRun, part: str, console: Console) -> None:
    found = evaluate_run(loaded, part=part)
    for table in found.tables():
        console.print(table)
    console.print(f"written: {found.folder}")
