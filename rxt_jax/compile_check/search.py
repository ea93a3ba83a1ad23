"""Meshes and micro-batches that might fit, in the order in which one would want them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rxt_jax.compile_check.measure import CompiledStage, check_stage, resident_bytes
from rxt_jax.recipe import Recipe
from rxt_jax.sharding import MeshConfig

__all__ = ["suggest"]

_ROOM = 0.9
"""Share of the memory that a step may need: the rest is for fragmentation and what the compiler does not see."""


def suggest(recipe: Recipe, name: str, devices: list[Any], memory: int, *, tries: int) -> CompiledStage | None:
    """Find a mesh and micro-batches with which a stage needs at most 90 % of the memory; None after so many compiles.

    Fewer parts of parameters mean less to communicate, and fewer micro-batches larger products: those come first. What
    does not fit before there is a single activation is not compiled.
    """
    for tried, candidate in enumerate(_candidates(recipe, name, devices, memory)):
        if tried == tries:
            break
        found = check_stage(candidate, name, devices, memory)
        if found.peak <= _ROOM * memory:
            return found
    return None


def _candidates(recipe: Recipe, name: str, devices: list[Any], memory: int) -> Iterator[Recipe]:
    run, count = recipe.stages[name], len(devices)
    fitting = []
    for parts in (1, *_powers_of_two(count)):
        mesh = MeshConfig(data=count // parts, fsdp=parts, replicate_indivisible=recipe.mesh.replicate_indivisible)
        changed = replace(recipe, mesh=mesh)
        try:
            resident = resident_bytes(changed, name, devices)
        except ValueError:  # the mesh does not divide the model
            continue
        if resident <= _ROOM * memory:
            fitting.append(changed)
    accumulation = 1
    while run.batch_size % (accumulation * count) == 0:
        for changed in fitting:
            yield replace(changed, stages={**changed.stages, name: replace(run, accumulation=accumulation)})
        if getattr(run.stage, "interactions_per_update", None) is not None:
            return  # such a stage has no micro-batches
        accumulation *= 2


def _powers_of_two(count: int) -> Iterator[int]:
    parts = 2
    while parts <= count and count % parts == 0:
        yield parts
        parts *= 2
