"""One stage compiled for a mesh: whether it fits, where its memory goes, and what it computes."""

import functools
import math
import re
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from rxt_jax.compile_check.checks import Check, check_collectives, kept_messages
from rxt_jax.compile_check.example_batch import example_batch, example_tokenizer
from rxt_jax.model.operation_count import device_peak
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.run_parameters import describe_parameters
from rxt_jax.scaling import Collective, CollectiveTotal, collectives_of, total_by_kind
from rxt_jax.sharding import batch_shardings, make_mesh
from rxt_jax.stages.stage import Stage
from rxt_jax.train.acting import Acting, acted_shardings, make_acting
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.state import TrainState, abstract_state
from rxt_jax.train.step import make_train_step

__all__ = ["CompiledStage", "check_acting", "check_stage", "peak_bytes", "resident_bytes"]

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
    """What the program needs at its worst moment, with what stays on the device beside it."""
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
    found = _describe(recipe, name, mesh)
    step = make_train_step(
        found.graphdef,
        run.stage,
        _optimizer(recipe, name, found.state.params),
        seed=recipe.seed,
        accumulation=run.accumulation,
        state_shardings=jax.tree.map(lambda leaf: leaf.sharding, found.state),
    )
    batch = found.read if found.act is None else _acted(found, run.stage, mesh)
    operations = run.stage.operations(recipe.model, example_batch(run.stage, recipe.data_of(run), run.batch_size))
    began = time.perf_counter()
    lowered = step.lower(found.state, batch)
    return _compiled(
        name, run, mesh, memory, found.state, batch, lowered, began, operations=operations, outside=0, budget=budget
    )


def check_acting(
    recipe: Recipe, name: str, devices: list[Any], memory: int | None, *, budget: float | None = None
) -> CompiledStage | None:
    """Compile what a stage acts with, as `check_stage` does its train step; None for a stage that does not act.

    While it acts, moments stay where they are.
    """
    run, mesh = recipe.stages[name], make_mesh(recipe.mesh, devices)
    found = _describe(recipe, name, mesh)
    if found.act is None:
        return None
    began = time.perf_counter()
    lowered = found.act.lower(found.state, found.read)
    outside = _device_bytes(found.state.opt_state)
    return _compiled(
        f"{name}, acting",
        replace(run, accumulation=1),
        mesh,
        memory,
        found.state,
        found.read,
        lowered,
        began,
        operations=None,
        outside=outside,
        budget=budget,
    )


def resident_bytes(recipe: Recipe, name: str, devices: list[Any]) -> int:
    """Say what parameters, moments and carry of a stage take on one device, without compiling anything."""
    return _device_bytes(_describe(recipe, name, make_mesh(recipe.mesh, devices)).state)


def _compiled(
    title: str,
    run: StageRun,
    mesh: Mesh,
    memory: int | None,
    state: TrainState,
    batch: Any,
    lowered: Any,
    began: float,
    *,
    operations: float | None,
    outside: int,
    budget: float | None,
) -> CompiledStage:
    """Compile a program and say what it needs; `outside` are bytes that stay on the device beside what it is given."""
    parts = {
        "parameters": _device_bytes(state.params),
        "optimizer": _device_bytes(state.opt_state),
        "carry": _device_bytes(state.carry),
        "batch": _device_bytes(batch),
    }
    rows = jax.tree.leaves(batch)[0].shape[run.stage.batch_axis]
    collectives: list[Collective] = []
    checks: list[Check] = []
    try:
        with kept_messages() as messages:
            compiled = lowered.compile()
        seconds = time.perf_counter() - began
        peak = peak_bytes(compiled.memory_analysis(), mesh.devices.flat[0].platform)
        collectives = collectives_of(compiled.as_text())
        if mesh.size > 1:
            checks = check_collectives(collectives, state.params, rows=rows, messages=messages.text, budget=budget)
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - began
        peak = _needed(str(error))
    peak += outside
    operations = None if operations is None else operations / mesh.size
    device_operations = device_peak(mesh.devices.flat[0].device_kind)
    return CompiledStage(
        stage=title,
        mesh=dict(mesh.shape),
        batch_size=rows,
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


class _Described(NamedTuple):
    """A stage on a mesh, in shapes with shardings: its state, what it reads, and what it acts with, if it acts."""

    graphdef: nnx.GraphDef
    state: TrainState
    read: Any
    act: Acting | None


def _describe(recipe: Recipe, name: str, mesh: Mesh) -> _Described:
    run = recipe.stages[name]
    graphdef, params = describe_parameters(recipe, mesh, Console(quiet=True))
    batch = example_batch(run.stage, recipe.data_of(run), run.batch_size)
    tokenizer = example_tokenizer(recipe.model.vocab_size)
    state = abstract_state(
        params,
        _optimizer(recipe, name, params),
        run.stage,
        mesh,
        recipe.mesh.replicate_indivisible,
        graphdef=graphdef,
        tokenizer=tokenizer,
        batch=batch,
    )
    read = _placed(batch, batch_shardings(batch, mesh, run.stage.batch_axis))
    return _Described(graphdef, state, read, make_acting(graphdef, run.stage, tokenizer, seed=recipe.seed, mesh=mesh))


def _acted(found: _Described, stage: Stage, mesh: Mesh) -> Any:
    """Describe the batch that acting makes of what is read."""
    assert found.act is not None
    made = jax.eval_shape(functools.partial(found.act, update=0), found.state, found.read)
    return _placed(made, acted_shardings(made, mesh, stage.batch_axis))


def _placed(batch: Any, places: Any) -> Any:
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), batch, places)


def _optimizer(recipe: Recipe, name: str, params: Any) -> Any:
    run = recipe.stages[name]
    return make_optimizer(
        run.optimizer, params, total_updates=run.updates, trainable=run.stage.trainable, unfreeze=run.stage.unfreeze
    )


def peak_bytes(found: Any, platform: str) -> int:
    """Say what a compiled program needs at its worst moment, from its memory analysis.

    For the CPU the compiler's own peak leaves out everything temporary (JAX 0.10.2): there it is added up.
    """
    if platform != "cpu":
        return found.peak_memory_in_bytes
    given = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return given + found.temp_size_in_bytes


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
