"""Devices share the work of a train step: each of eight multiplies no more than one device does with its rows.

Two programs per case, so they run with the slow tests; test_runs.py and test_other_mesh.py look at the programs that
they compile anyway.
"""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from small import mixture_config, small_config

from rxt_jax.model import make_model
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.scaling import collectives_of, product_operations, total_by_kind
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh
from rxt_jax.stages import DirectMemoryPreference, JointPretraining, MemoryAware
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import abstract_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import EpisodeBatch, PreferenceBatch, RowBatch

STAGES = (JointPretraining(), MemoryAware(), DirectMemoryPreference())
ROWS, INTERACTIONS, LENGTH = 4, 2, 8


def with_experts():
    """Dense layers and one of experts; without the parts that need layers, and compilation, of their own."""
    decoder = mixture_config().decoder
    return replace(mixture_config(), decoder=replace(decoder, stateless=(), final_stateless=()))


def rows_of(stage, rows):
    """Describe a batch of the stage."""
    shape = (rows, LENGTH) if isinstance(stage, JointPretraining) else (INTERACTIONS, rows, LENGTH)
    ids, mask = jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct(shape, np.bool_)
    if isinstance(stage, JointPretraining):
        return RowBatch(ids, mask, mask, mask, None, ids)
    episodes = EpisodeBatch(ids, mask, mask, jax.ShapeDtypeStruct(shape[:2], np.bool_))
    return PreferenceBatch(episodes, episodes, episodes) if isinstance(stage, DirectMemoryPreference) else episodes


@functools.lru_cache(maxsize=8)
def compiled(stage, config, mesh_config, devices):
    """Compile the train step for a mesh on which every device has the same number of rows; nothing is computed."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=10, trainable=stage.trainable)
    state = abstract_state(params, optimizer, stage, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(graphdef, stage, optimizer, seed=0, state_shardings=shardings)
    batch = rows_of(stage, ROWS * devices)
    places = batch_shardings(batch, mesh, stage.batch_axis)
    batch = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), batch, places
    )
    sizes = [np.prod(variable.shape) for variable in flat_parameters(params).values()]
    return step.lower(state, batch).compile().as_text(), 4 * int(sum(sizes))


@pytest.mark.slow
@pytest.mark.parametrize("config", [small_config(), with_experts()], ids=["dense", "experts"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.kind)
def test_a_device_of_eight_does_the_work_of_one(stage, config):
    alone, _ = compiled(stage, config, MeshConfig(), 1)
    together, parameters = compiled(stage, config, MeshConfig(data=8), 8)
    assert product_operations(together) <= 1.05 * product_operations(alone)
    # No device asks for what another one has: gradients and sums are added up, and that is all.
    kinds = total_by_kind(collectives_of(together))
    assert set(kinds) == {"all-reduce"}
    assert kinds["all-reduce"].bytes <= 4 * parameters


@pytest.mark.slow
def test_split_parameters_do_not_make_devices_repeat_the_batch():
    alone, _ = compiled(STAGES[1], with_experts(), MeshConfig(), 1)
    split, _ = compiled(STAGES[1], with_experts(), MeshConfig(fsdp=8), 8)
    assert product_operations(split) <= 1.05 * product_operations(alone)
