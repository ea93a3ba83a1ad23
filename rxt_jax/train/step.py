"""The train step: one pure, jitted, donated function from (state, batch) to (state, metrics).

    rows      ──▶ micro-batches ──▶ Σ gradients ──▶ one update
    episodes  ──▶ windows of `interactions_per_update` ──▶ one update each, memory carried on

Everything happens in one compiled program and nothing waits for the host. Source:
docs/method.md §17.5, eq. 64.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.nn.parameters import with_parameters
from rxt_jax.nn.rounding import with_rounded_kernels
from rxt_jax.processes import CompiledTogether
from rxt_jax.row_sharding import on_mesh
from rxt_jax.stages.stage import EpisodeStage, Rebuild, Stage
from rxt_jax.train.optimizer import Optimizer
from rxt_jax.train.passes import make_passes
from rxt_jax.train.state import TrainState
from rxt_jax.types import Array, Key, Metrics

__all__ = ["Accumulation", "TrainStep", "make_train_step", "rebuilder", "step_root"]

Accumulation = Literal["tokens", "batches"]
"""How micro-batches join: as if they were one batch, or as the mean of their means (published)."""


class TrainStep:
    """A compiled `(state, batch) -> (state, metrics)`; the state that goes in is used up.

    The key of an update is `fold_in(fold_in(key(seed), stream), update)`. It enters as an
    argument, so that runs with other seeds share the compiled program.
    """

    def __init__(self, function: Callable, key: Key, *, out_shardings: Any = None):
        # None leaves a placement to the compiler.
        placed = None if out_shardings is None else (out_shardings, None)
        self._jitted = CompiledTogether(jax.jit(function, donate_argnums=0, out_shardings=placed), "step")
        self._key = key

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return self._jitted(state, batch, self._key)

    def lower(self, state: Any, batch: Any) -> Any:
        """Lower for inspection or for compiling ahead of time."""
        return self._jitted.lower(state, batch, self._key)


def make_train_step(
    graphdef: nnx.GraphDef,
    stage: Stage,
    optimizer: Optimizer,
    *,
    seed: int,
    stream: int = 0,
    accumulation: int = 1,
    normalise: Accumulation = "tokens",
    state_shardings: Any = None,
) -> TrainStep:
    """Build the train step of a stage.

    `accumulation` splits a batch into that many micro-batches of interleaved rows, `stream` tells
    the stages of one run apart. With `state_shardings` (see `rxt_jax.sharding`) the state stays
    placed, and activations are split over the same mesh.
    """
    if accumulation < 1:
        raise ValueError(f"accumulation must be at least 1, got {accumulation}. Use 1 for none.")
    per_update = stage.interactions_per_update if isinstance(stage, EpisodeStage) else None
    if per_update is not None and accumulation > 1:
        raise ValueError(
            f"accumulation must be 1 where a stage updates inside the episode, got accumulation="
            f"{accumulation} with interactions_per_update={per_update}. Raise "
            f"interactions_per_update instead: it accumulates over interactions."
        )

    mesh = None if state_shardings is None else jax.tree.leaves(state_shardings)[0].mesh

    def step(state: TrainState, batch: Any, root: Key) -> tuple[TrainState, Metrics]:
        with on_mesh(mesh):
            return update(state, batch, root)

    def update(state: TrainState, batch: Any, root: Key) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(root, state.update)
        rebuild = rebuilder(graphdef, state.params)
        arguments = stage.objective_arguments(state.carry, rebuild)

        def learn(trained: Any, opt_state: Any, batch: Any, key: Key, update: Array) -> tuple[Any, Any, Metrics]:
            if isinstance(stage, EpisodeStage) and per_update is not None:
                return _walk_windows(
                    stage, arguments, rebuild, optimizer, trained, opt_state, update, batch, key, per_update, share
                )
            loss, gradients, metrics = _accumulate(
                stage, arguments, rebuild, trained, batch, key, accumulation, normalise
            )
            trained, opt_state, update_metrics = optimizer.apply(
                gradients, opt_state, trained, update, finite=jnp.isfinite(loss)
            )
            return trained, opt_state, metrics | update_metrics | {"loss": (loss, jnp.float32(1.0))}

        passes = stage.passes
        share = 1.0 / (passes.epochs * passes.minibatches)
        start = (optimizer.trained(state.params), state.opt_state)
        trained, opt_state, metrics = make_passes(passes, learn, start, batch, stage.batch_axis, key, state.update)
        params = with_parameters(state.params, trained)
        done = state.update + 1
        metrics = metrics | stage.batch_metrics(batch)
        return TrainState(params, opt_state, done, stage.next_carry(state.carry, batch, trained, done)), metrics

    return TrainStep(step, step_root(seed, stream), out_shardings=state_shardings)


def step_root(seed: int, stream: int) -> Key:
    """Give the key that the keys of a stage's updates are folded from."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def rebuilder(graphdef: nnx.GraphDef, params: nnx.State) -> Rebuild:
    """Make a function that makes the model with other values (path → array) for some of its parameters.

    Kernels of a model that computes in another type than float32 are rounded here, once for all that happens in a step.
    """
    return lambda values: with_rounded_kernels(nnx.merge(graphdef, with_parameters(params, values)))


def _accumulate(
    stage: Stage,
    arguments: dict[str, Any],
    rebuild: Rebuild,
    trained: dict[str, Array],
    batch: Any,
    key: Key,
    accumulation: int,
    normalise: Accumulation,
) -> tuple[Array, dict[str, Array], Metrics]:
    """Sum the gradients of all micro-batches; the common denominators make the split invisible."""

    def gradients(batch: Any, key: Key, counts: dict[str, Array]) -> tuple[Array, dict[str, Array], Metrics]:
        def loss(trained: dict[str, Array]) -> tuple[Array, Metrics]:
            return stage.objective(rebuild(trained), batch, key, counts, **arguments)

        (value, metrics), slope = jax.value_and_grad(loss, has_aux=True)(trained)
        return value, slope, metrics

    if accumulation == 1:
        return gradients(batch, key, stage.label_counts(batch))
    micro = _micro_batches(batch, stage.batch_axis, accumulation)
    counts = jax.vmap(stage.label_counts)(micro)
    if normalise == "tokens":
        total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), counts)
        counts = jax.tree.map(lambda t, c: jnp.broadcast_to(t, c.shape), total, counts)
    else:
        counts = jax.tree.map(lambda leaf: leaf * accumulation, counts)

    def add(carry: tuple, inputs: tuple) -> tuple[tuple, Metrics]:
        batch, counts, number = inputs
        value, slope, metrics = gradients(batch, jax.random.fold_in(key, number), counts)
        return jax.tree.map(jnp.add, carry, (value, slope)), metrics

    start = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, trained))
    (value, slope), metrics = jax.lax.scan(add, start, (micro, counts, jnp.arange(accumulation)))
    return value, slope, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)


def _micro_batches(batch: Any, axis: int, count: int) -> Any:
    """Split rows r, r + count, r + 2·count, … into micro-batch r, which keeps device shards
    whole."""

    def split(leaf: Array) -> Array:
        rows = leaf.shape[axis]
        if rows % count:
            raise ValueError(
                f"The batch must divide into micro-batches, got {rows} rows for accumulation="
                f"{count}. Choose a batch size that is a multiple of it."
            )
        shape = (*leaf.shape[:axis], rows // count, count, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(jnp.reshape(leaf, shape), axis + 1, 0)

    return jax.tree.map(split, batch)


def _walk_windows(
    stage: EpisodeStage,
    arguments: dict[str, Any],
    rebuild: Rebuild,
    optimizer: Optimizer,
    trained: dict[str, Array],
    opt_state: Any,
    update: Array,
    batch: Any,
    key: Key,
    per_update: int,
    share: float,
) -> tuple[dict[str, Array], Any, Metrics]:
    """Update after every window of interactions; the gradient ends at the window's first memory.

    `share` is what this walk is of a whole update, for schedules: they count batches, however they are cut.
    """
    interactions = stage.interactions(batch)
    windows, count = _windows(interactions, per_update)

    def walk(carry: tuple, inputs: tuple) -> tuple[tuple, Metrics]:
        trained, opt_state, memory = carry
        window, number = inputs
        counts = stage.label_counts(window)

        def loss(trained: dict[str, Array]) -> tuple[Array, tuple[Any, Metrics]]:
            model = rebuild(trained)
            # Drawn inside, so that a learned initial memory gets the first window's gradient.
            first = stage.first_memory(model, batch, key, **arguments)
            current = jax.tree.map(lambda f, m: jnp.where(number == 0, f, m), first, memory)
            start = number * per_update
            return stage.window_objective(model, current, window, key, counts, start=start, **arguments)

        (value, (memory, metrics)), slope = jax.value_and_grad(loss, has_aux=True)(trained)
        trained, opt_state, update_metrics = optimizer.apply(
            slope,
            opt_state,
            trained,
            # A window is a fraction of an update: schedules count batches, however they are cut.
            update + share * number / count,
            finite=jnp.isfinite(value),
        )
        metrics = metrics | update_metrics | {"loss": (value, jnp.float32(1.0))}
        return (trained, opt_state, memory), metrics

    memory = stage.first_memory(rebuild(trained), batch, key, **arguments)
    (trained, opt_state, _), metrics = jax.lax.scan(walk, (trained, opt_state, memory), (windows, jnp.arange(count)))
    return trained, opt_state, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)


def _windows(interactions: Any, size: int) -> tuple[Any, int]:
    """Cut I interactions into windows `[W size …]`, the last one filled up with filler."""
    length = interactions.valid.shape[0]
    count = -(-length // size)

    def cut(leaf: Array) -> Array:
        missing = count * size - length
        filled = jnp.pad(leaf, [(0, missing), *[(0, 0)] * (leaf.ndim - 1)])
        return filled.reshape(count, size, *leaf.shape[1:])

    return jax.tree.map(cut, interactions), count
