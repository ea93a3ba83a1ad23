"""What a run carries from update to update, and nothing else."""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.sharding import state_shardings
from rxt_jax.stages.stage import Beginning, Stage
from rxt_jax.train.optimizer import Optimizer
from rxt_jax.types import Array

__all__ = ["TrainState", "abstract_state", "begin_training", "make_train_state"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Parameters of the whole model, moments of those that train, the number of updates done, and the stage's carry.

    `carry` is whatever pytree the stage keeps beside them (`Stage.first_carry`), with nothing in it for most.

    No key is here: the key of an update is folded from the run's seed and `update`.
    """

    params: nnx.State
    opt_state: Any
    update: Array
    carry: Any = field(default_factory=dict)


def make_train_state(params: nnx.State, optimizer: Optimizer, stage: Stage | None = None, **known: Any) -> TrainState:
    """Start a run. Arrays are copied, because a donated step destroys what it is given.

    Without a stage, or with one that carries nothing, there is nothing to carry. A stage that acts may want to know
    the `graphdef`, the `tokenizer` and one `batch` as it is read, for the shapes of what it carries: `known`, here and
    below, are these fields of its `Beginning`.
    """
    return _first_state(jax.tree.map(jnp.copy, params), optimizer, stage, **known)


def abstract_state(
    params: nnx.State,
    optimizer: Optimizer,
    stage: Stage,
    mesh: jax.sharding.Mesh,
    replicate_indivisible: tuple[str, ...] = (),
    **known: Any,
) -> TrainState:
    """Describe the state of a run that begins with `params`, which may be shapes: shapes, types and shardings."""
    state = jax.eval_shape(functools.partial(_first_state, optimizer=optimizer, stage=stage, **known), params)
    shardings = state_shardings(state, flat_parameters(state.params), mesh, replicate_indivisible)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, shardings
    )


def begin_training(
    params: nnx.State, optimizer: Optimizer, stage: Stage, shardings: TrainState, **known: Any
) -> TrainState:
    """Start a run with parameters that it takes over: they are not copied, and whoever still has them cannot use them.

    Everything else is made where `shardings` says that it is to live, as `params` already do.
    """
    make = functools.partial(_first_state, optimizer=optimizer, stage=stage, **known)
    return jax.jit(make, donate_argnums=0, out_shardings=shardings)(params)


def _first_state(params: nnx.State, optimizer: Optimizer, stage: Stage | None, **known: Any) -> TrainState:
    carry = {}
    if stage is not None:
        flat = {path: variable[...] for path, variable in flat_parameters(params).items()}
        changed = {path: value for path, value in stage.first_params(flat).items() if value is not flat[path]}
        flat |= jax.tree.map(jnp.copy, changed)
        params = with_parameters(params, flat)
        trained = optimizer.trained(params)
        groups = {group: {path: trained[path] for path in paths} for group, paths in optimizer.members.items()}
        # What a stage carries may be parameters, and a donated step must not get an array twice.
        beginning = Beginning(groups, flat, params, **known)
        carry = jax.tree.map(jnp.copy, stage.first_carry(beginning))
    return TrainState(params, optimizer.init(params), jnp.int32(0), carry)
