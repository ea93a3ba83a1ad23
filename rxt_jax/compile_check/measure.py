"""One stage compiled for a mesh: whether it fits, where its memory goes, and what it computes."""

import math
import re
import time
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from rxt_jax.compile_check.checks import Check, check_collectives, kept_messages
from rxt_jax.compile_check.example_batch import example_batch
from rxt_jax.model.operation_count import device_peak
from rxt_jax.recipe import Recipe
from rxt_jax.run_parameters import describe_parameters
from rxt_jax.scaling import Collective, CollectiveTotal, collectives_of, total_by_kind
from rxt_jax.sharding import batch_shardings, make_mesh
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.state import abstract_state
from rxt_jax.train.step import make_train_step

__all__ = ["CompiledStage", "check_stage", "resident_bytes"]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class CompiledStage:
    """What compiling a stage told, of one device. Bytes, floating-point operations, seconds."""

    stage: str
    mesh: dict[str, int]
    batch_size: int
    accumulation: int
    memory: int | None
    """What the device has; None where that is not known."""
    peak: int
    """What the step needs at its worst moment."""
    parameters: int
    optimizer: int
    carry: int
    """What the stage takes from update to update beside them."""
    batch: int
    activations: int
    """The rest of the peak: activations, gradients, buffers of collectives."""
    operations: float | None
    """Of an update, counted from the shapes (`model.operation_count`), a device's share."""
    seconds_at_peak: float | None
    """How long that takes at the device's peak; None where either is not known."""
    compile_seconds: float
    collectives: dict[str, CollectiveTotal]
    """What a device sends and gets in an update, by kind, loops counted as often as they run; empty where the program
    did not compile."""
    checks: tuple[Check, ...] = ()
    """Signs of traffic that nobody asked for (`checks`); empty for one device and where the program did not compile."""

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where the memory is not known."""
        return None if self.memory is None else self.peak <= self.memory


def check_stage(
    recipe: Recipe, name: str, devices: list[Any], memory: int | None, *, budget: float | None = None
) -> CompiledStage:
    """Compile the train step of a stage for devices that need not be there.

    `budget` is the most traffic of a device in an update that is well, in float32 parameters; None = any.
    """
    run, mesh = recipe.stages[name], make_mesh(recipe.mesh, devices)
    batch = example_batch(run.stage, recipe.data_of(run), run.batch_size)
    graphdef, state = _abstract(recipe, name, mesh)
    places = batch_shardings(batch, mesh, run.stage.batch_axis)
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), batch, places
    )
    optimizer = _optimizer(recipe, name, state.params)
    step = make_train_step(
        graphdef,
        run.stage,
        optimizer,
        seed=recipe.seed,
        accumulation=run.accumulation,
        state_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
    )
    parts = {
        "parameters": _device_bytes(state.params),
        "optimizer": _device_bytes(state.opt_state),
        "carry": _device_bytes(state.carry),
        "batch": _device_bytes(shapes),
    }
    began = time.perf_counter()
    lowered = step.lower(state, shapes)
    collectives: list[Collective] = []
    checks: list[Check] = []
    try:
        with kept_messages() as messages:
            compiled = lowered.compile()
        seconds = time.perf_counter() - began
        peak = compiled.memory_analysis().peak_memory_in_bytes
        collectives = collectives_of(compiled.as_text())
        if mesh.size > 1:
            checks = check_collectives(
                collectives, state.params, rows=run.batch_size, messages=messages.text, budget=budget
            )
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - began
        peak = _needed(str(error))
    operations = run.stage.operations(recipe.model, batch)
    operations = None if operations is None else operations / mesh.size
    device_operations = device_peak(mesh.devices.flat[0].device_kind)
    return CompiledStage(
        stage=name,
        mesh=dict(mesh.shape),
        batch_size=run.batch_size,
        accumulation=run.accumulation,
        memory=memory,
        peak=peak,
        **parts,
        activations=max(peak - sum(parts.values()), 0),
        operations=operations,
        seconds_at_peak=operations / device_operations if operations and device_operations else None,
        compile_seconds=seconds,
        collectives=total_by_kind(collectives),
        checks=tuple(checks),
    )


def resident_bytes(recipe: Recipe, name: str, devices: list[Any]) -> int:
    """Say what parameters, moments and carry of a stage take on one device, without compiling anything."""
    return _device_bytes(_abstract(recipe, name, make_mesh(recipe.mesh, devices))[1])


def _abstract(recipe: Recipe, name: str, mesh: Mesh) -> tuple[Any, Any]:
    run = recipe.stages[name]
    graphdef, params = describe_parameters(recipe, mesh, Console(quiet=True))
    optimizer = _optimizer(recipe, name, params)
    return graphdef, abstract_state(
        params, optimizer, run.stage, mesh, recipe.mesh.replicate_indivisible, graphdef=graphdef
    )


def _optimizer(recipe: Recipe, name: str, params: Any) -> Any:
    run = recipe.stages[name]
    return make_optimizer(
        run.optimizer, params, total_updates=run.updates, trainable=run.stage.trainable, unfreeze=run.stage.unfreeze
    )


def _device_bytes(tree: Any) -> int:
    """Add up what one device has of arrays that are shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _needed(message: str) -> int:
    """Read how much memory a program would need out of what the compiler says when there is not enough."""
    if "RESOURCE_EXHAUSTED" not in message:
        raise ValueError(f"it does not compile: {message.strip().splitlines()[0][:300]}")
    found = re.search(r"[Uu]sed ([\d.]+)([KMGT]?) of", message)
    if found is None:
        raise ValueError(f"it does not fit, and the compiler does not say by how much: {message[:300]}")
    return int(float(found[1]) * _UNITS[found[2]])
