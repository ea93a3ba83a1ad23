"""`python -m rxt_jax.cli.compile_check_program`: what `rxt compile-check` does, in the environment of the topology."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from rxt_jax.cli.options import parse, split_arguments
from rxt_jax.compile_check.measure import CompiledStage, check_acting, check_stage
from rxt_jax.compile_check.search import suggest
from rxt_jax.compile_check.topology import Topology, parse_topology
from rxt_jax.data.tokenizer import load_tokenizer
from rxt_jax.recipe import Recipe, load_recipe

__all__ = ["CheckOptions", "run"]

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Compile every stage of a recipe for devices that are not there."""

    topology: str
    """KIND:SHAPE, such as v5e:2x4, v6e:2x4, v5p:2x4x4, or cpu:8 for simulated devices."""
    memory: float | None = None
    """GiB of a device; None = what the kind has. With cpu:8 and 80 it is a rough estimate of eight H100."""
    stages: str | None = None
    """Names of stages to check, with commas; None = all."""
    suggest: bool = False
    """Also look for a mesh and micro-batches that fit into 90 % of the memory."""
    tries: int = 6
    """How many programs `suggest` may compile for a stage."""
    budget: float | None = None
    """Most traffic of a device in an update, in float32 parameters of the model; None = any."""
    json: bool = False
    """Print JSON."""


def run(arguments: Sequence[str]) -> int:
    """Check and print; 0 where everything is well, 1 where something does not fit or a check fails."""
    mine, rest = split_arguments(CheckOptions, arguments[1:])
    options = parse(CheckOptions, mine, "rxt compile-check CONFIG")
    recipe = parse(Recipe, rest, f"rxt compile-check {arguments[0]}", default=load_recipe(arguments[0]))
    topology = parse_topology(options.topology)
    memory = topology.memory_bytes if options.memory is None else int(options.memory * _GIB)
    if options.suggest and memory is None:
        raise ValueError(f"--suggest wants to know the memory of a device of {topology.name}: give --memory GIB.")
    recipe = _with_stages(_with_vocabulary(recipe), options.stages)
    devices = topology.devices()
    found: dict[str, CompiledStage] = {}
    for name in recipe.stages:
        for check in (check_acting, check_stage):
            compiled = check(recipe, name, devices, memory, budget=options.budget)
            found |= {} if compiled is None else {compiled.stage: compiled}
    better: dict[str, CompiledStage | None] = {}
    if options.suggest and memory is not None:
        better = {name: suggest(recipe, name, devices, memory, tries=options.tries) for name in recipe.stages}
    if options.json:
        print(json.dumps(_as_json(topology, found, better)))
    else:
        _show(Console(), topology, found, better)
    well = (stage.fits is not False and all(check.passed for check in stage.checks) for stage in found.values())
    return 0 if all(well) else 1


def _with_vocabulary(recipe: Recipe) -> Recipe:
    """Give the model the vocabulary that it will have: that of the tokenizer."""
    named = recipe.tokenizer.path
    size = recipe.tokenizer.vocab_size if named is None else load_tokenizer(named).vocab_size
    return replace(recipe, model=replace(recipe.model, vocab_size=size))


def _with_stages(recipe: Recipe, wanted: str | None) -> Recipe:
    """Leave only the stages that are named."""
    names = list(recipe.stages) if wanted is None else wanted.split(",")
    unknown = [name for name in names if name not in recipe.stages]
    if unknown:
        raise ValueError(f"--stages names {', '.join(unknown)}; the recipe has {', '.join(recipe.stages)}.")
    return replace(recipe, stages={name: recipe.stages[name] for name in names})


def _as_json(topology: Topology, found: dict[str, CompiledStage], better: dict[str, Any]) -> dict[str, Any]:
    return {
        "topology": topology.name,
        "devices": topology.size,
        "stages": {name: _stage_as_json(stage) for name, stage in found.items()},
        "suggested": {name: each and _stage_as_json(each) for name, each in better.items()},
    }


def _stage_as_json(stage: CompiledStage) -> dict[str, Any]:
    collectives = {kind: total._asdict() for kind, total in stage.collectives.items()}
    checks = [check._asdict() for check in stage.checks]
    return dataclasses.asdict(stage) | {"fits": stage.fits, "collectives": collectives, "checks": checks}


def _show(
    console: Console, topology: Topology, found: dict[str, CompiledStage], better: dict[str, CompiledStage | None]
) -> None:
    columns = [(stage.stage, stage) for stage in found.values()]
    columns += [(f"{name}, suggested", stage) for name, stage in better.items() if stage is not None]
    table = Table(title=f"{topology.name}, {topology.size} devices: an update, of one device")
    table.add_column("")
    for title, _ in columns:
        table.add_column(title, justify="right")
    for row in zip(*(_lines(stage) for _, stage in columns), strict=True):
        table.add_row(row[0][0], *(value for _, value in row))
    console.print(table)
    sent = Table(title="collectives of an update, of one device")
    for column in ("stage", "kind", "instructions", "executed", "MiB"):
        sent.add_column(column, justify="left" if column in ("stage", "kind") else "right")
    for stage in found.values():
        for kind, total in stage.collectives.items():
            sent.add_row(stage.stage, kind, str(total.instructions), str(total.times), f"{total.bytes / 2**20:,.1f}")
    if sent.row_count:
        console.print(sent)
    signs = Table(title="signs of traffic that nobody asked for")
    for column in ("stage", "what should be true", "is it", "found"):
        signs.add_column(column)
    for stage in found.values():
        for check in stage.checks:
            signs.add_row(stage.stage, check.name, "yes" if check.passed else "[red]no", check.found)
    if signs.row_count:
        console.print(signs)
    for name, stage in better.items():
        if stage is None:
            console.print(f"{name}: nothing that was tried fits; raise --tries, use more devices or fewer rows")


def _lines(stage: CompiledStage) -> list[tuple[str, str]]:
    """Say what a stage needs, line by line."""
    fits = "?"
    if stage.memory is not None:
        spare = stage.memory - stage.peak
        fits = f"yes, {_size(spare)} left" if stage.fits else f"no, {_size(-spare)} over"
    split = (f"{axis}={size}" for axis, size in stage.mesh.items() if size > 1)
    return [
        ("mesh", " ".join(split) or "one device"),
        ("rows / micro-batches", f"{stage.batch_size} / {stage.accumulation}"),
        ("fits", fits),
        ("memory", "?" if stage.memory is None else _size(stage.memory)),
        ("peak", _size(stage.peak)),
        ("  parameters", _size(stage.parameters)),
        ("  optimizer", _size(stage.optimizer)),
        ("  carry and batch", _size(stage.carry + stage.batch)),
        ("  activations", _size(stage.activations)),
        ("operations", "?" if stage.operations is None else f"{stage.operations / 1e9:,.4g} GFLOP"),
        ("at the peak", "?" if stage.seconds_at_peak is None else f"{1000 * stage.seconds_at_peak:,.4g} ms"),
        ("to compile", f"{stage.compile_seconds:.0f} s"),
    ]


def _size(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / 2**20:.1f} MiB"


if __name__ == "__main__":
    try:
        sys.exit(run(sys.argv[1:]))
    except (ValueError, FileNotFoundError) as error:
        print(f"rxt compile-check: {error}", file=sys.stderr)
        sys.exit(2)
