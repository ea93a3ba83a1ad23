"""What a run carries from update to update, and nothing else."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.stages.stage import Stage
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


def make_train_state(params: nnx.State, optimizer: Optimizer, stage: Stage | None = None) -> TrainState:
    """Start a run. Arrays are copied, because a donated step destroys what it is given.

    Without a stage, or with one that carries nothing, there is nothing to carry.
    """
    params = jax.tree.map(jnp.copy, params)
    carry = {}
    if stage is not None:
        trained = optimizer.trained(params)
        groups = {group: {path: trained[path] for path in paths} for group, paths in optimizer.members.items()}
        carry = jax.tree.map(jnp.copy, stage.first_carry(groups))
    return TrainState(params, optimizer.init(params), jnp.int32(0), carry)
