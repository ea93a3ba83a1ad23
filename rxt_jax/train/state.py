"""What a run carries from update to update, and nothing else."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.train.optimizer import Optimizer
from rxt_jax.types import Array

__all__ = ["TrainState", "make_train_state"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Parameters of the whole model, moments of those that train, and the number of updates done.

    `reference` holds the frozen copies (path → array) that a preference stage compares with, those of its
    `reference_groups`; all other parameters the reference shares.

    No key is here: the key of an update is folded from the run's seed and `update`.
    """

    params: nnx.State
    opt_state: Any
    update: Array
    reference: dict[str, Array] = field(default_factory=dict)


def make_train_state(params: nnx.State, optimizer: Optimizer, *, reference_groups: tuple[str, ...] = ()) -> TrainState:
    """Start a run. Parameters are copied, because a donated step destroys what it is given."""
    params = jax.tree.map(jnp.copy, params)
    trained = optimizer.trained(params)
    paths = [path for group in reference_groups for path in optimizer.members.get(group, ())]
    reference = {path: jnp.copy(trained[path]) for path in paths}
    return TrainState(params, optimizer.init(params), jnp.int32(0), reference)
