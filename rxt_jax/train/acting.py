"""Batches that are made with the state at hand (rollouts): a function of (seed, update, state before the update).

What is read for an update is prefetched like any other batch; acting follows when the state before that update is
there. Nothing random is saved, so a run that goes on acts as one that was never interrupted.

Acting is one compiled program of the whole mesh. Every device acts with its own rows, and what comes back is split as
any other batch is, so several processes do together what one does alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rxt_jax.processes import CompiledTogether
from rxt_jax.row_sharding import on_mesh
from rxt_jax.sharding import batch_parts, batch_shardings
from rxt_jax.stages.stage import Stage
from rxt_jax.train.state import TrainState
from rxt_jax.train.step import step_root

__all__ = ["Acting", "acted_shardings", "make_acting"]

_ACTING = 0x80414354  # no update has this number, whose key the train step folds from the same root


class Acting:
    """A compiled `(state, batch, update) -> batch`: the batch that the objective gets, of the one that was read."""

    def __init__(self, function: Callable, root: jax.Array):
        self._jitted, self._root = CompiledTogether(jax.jit(function), "acting"), root

    def __call__(self, state: TrainState, batch: Any, update: int) -> Any:
        return self._jitted(*self._arguments(state, batch, update))

    def lower(self, state: Any, batch: Any, update: int = 0) -> Any:
        """Lower for inspection or for compiling ahead of time."""
        return self._jitted.lower(*self._arguments(state, batch, update))

    def _arguments(self, state: Any, batch: Any, update: int) -> tuple[Any, ...]:
        return state.params, state.carry, batch, jnp.int32(update), jax.random.fold_in(self._root, update)


def make_acting(
    graphdef: nnx.GraphDef,
    stage: Stage,
    tokenizer: Any,
    *,
    seed: int,
    stream: int = 0,
    held_out: bool = False,
    mesh: Mesh | None = None,
) -> Acting | None:
    """Make `(state, batch, update) -> batch` for a stage that acts, None for one that trains on what it reads.

    With `mesh` what is read, the activations of acting and the batch that comes back are split over its devices.
    """
    act = stage.make_act(graphdef, tokenizer, held_out=held_out)
    if act is None:
        return None

    def acted(*arguments: Any) -> Any:
        with on_mesh(mesh):
            made = act(*arguments)
        if mesh is None or mesh.size == 1:
            return made
        return jax.lax.with_sharding_constraint(made, acted_shardings(made, mesh, stage.batch_axis))

    return Acting(acted, jax.random.fold_in(step_root(seed, stream), _ACTING))


def acted_shardings(made: Any, mesh: Mesh, batch_axis: int) -> Any:
    """Split the rows that acting made over the mesh.

    Replayed rows stand behind the new ones and may make a number that the mesh does not divide: then every device has
    all rows.
    """
    if jax.tree.leaves(made)[0].shape[batch_axis] % batch_parts(mesh):
        return jax.tree.map(lambda leaf: NamedSharding(mesh, P()), made)
    return batch_shardings(made, mesh, batch_axis)
