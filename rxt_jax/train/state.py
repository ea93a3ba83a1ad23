"""What a run carries from update to update, and nothing else."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.stages.stage import Beginning, Stage
from rxt_jax.train.optimizer import Optimizer
from rxt_jax.types import Array

__all__ = ["TrainState", "make_train_state"]


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


def make_train_state(
    params: nnx.State,
    optimizer: Optimizer,
    stage: Stage | None = None,
    *,
    graphdef: Any = None,
    tokenizer: Any = None,
    batch: Any = None,
) -> TrainState:
    """Start a run. Arrays are copied, because a donated step destroys what it is given.

    Without a stage, or with one that carries nothing, there is nothing to carry. A stage that acts may want to know
    the model, the tokenizer and one `batch` as it is read, for the shapes of what it carries.
    """
    params = jax.tree.map(jnp.copy, params)
    carry = {}
    if stage is not None:
        flat = {path: variable[...] for path, variable in flat_parameters(params).items()}
        params = with_parameters(params, stage.first_params(flat))
        trained = optimizer.trained(params)
        groups = {group: {path: trained[path] for path in paths} for group, paths in optimizer.members.items()}
        flat = {path: variable[...] for path, variable in flat_parameters(params).items()}
        carry = jax.tree.map(jnp.copy, stage.first_carry(Beginning(groups, flat, params, graphdef, tokenizer, batch)))
        params = jax.tree.map(jnp.copy, params)
    return TrainState(params, optimizer.init(params), jnp.int32(0), carry)
