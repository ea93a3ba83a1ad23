"""Windows into long episodes: the past is in memory, without targets and without gradient."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import random_conversations, small_config, small_model

from rxt_jax.model.episode import with_previous
from rxt_jax.stages import MemoryAware
from rxt_jax.types import EpisodeBatch

WINDOW, LENGTH = 2, 5
STAGE = MemoryAware(window=WINDOW, remat="none")


def aligned_batch() -> EpisodeBatch:
    """Row 0 has all interactions, row 1 begins at number 2, row 2 at its window, row 3 ends early."""
    batch = random_conversations(interactions=LENGTH, rows=4)
    valid = np.ones((LENGTH, 4), bool)
    valid[:2, 1] = valid[:3, 2] = valid[4:, 3] = False
    loss_mask = batch.loss_mask.copy()
    loss_mask[: LENGTH - WINDOW] = False
    return batch._replace(valid=valid, loss_mask=loss_mask & valid[..., None])


def write_past(model, batch):
    memory = STAGE.begin(model, 4, None)
    for ids, mask, valid in zip(batch.ids[:-WINDOW], batch.token_mask[:-WINDOW], batch.valid[:-WINDOW], strict=True):
        written = model.update_memory(memory, model.encode(ids, mask), mask)
        memory = jnp.where(valid[:, None, None], written, memory)
    return memory


def window_alone(model, batch, memory):
    """Score the window from memories that are given as numbers; rows without a past have the initial memory."""
    window = jax.tree.map(lambda leaf: leaf[-WINDOW:], with_previous(batch))
    window = window._replace(previous_valid=window.previous_valid.at[0].set(False))
    had_past = jnp.any(batch.valid[:-WINDOW], axis=0)[:, None, None]
    memory = jnp.where(had_past, memory, STAGE.begin(model, 4, None))
    return STAGE.window_objective(model, memory, window, None, STAGE.label_counts(batch))[0]


@pytest.mark.slow
def test_a_window_trains_on_a_memory_of_the_past_that_is_a_constant():
    graphdef, params = nnx.split(small_model(replace(small_config(), initial_memory="learned")))
    batch = jax.tree.map(jnp.asarray, aligned_batch())

    def objective(params, batch):
        return STAGE.objective(nnx.merge(graphdef, params), batch, None, STAGE.label_counts(batch))[0]

    memory = jax.jit(lambda params: write_past(nnx.merge(graphdef, params), batch))(params)
    expected = jax.jit(
        jax.value_and_grad(lambda params, memory: window_alone(nnx.merge(graphdef, params), batch, memory))
    )(params, memory)
    train = jax.jit(jax.value_and_grad(objective))
    value, slopes = train(params, batch)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), slopes, expected[1])
    forgotten = batch._replace(valid=batch.valid & (jnp.arange(LENGTH) >= LENGTH - WINDOW)[:, None])
    assert abs(float(train(params, forgotten)[0]) - float(value)) > 1e-4


def test_a_window_does_not_go_with_updates_inside_an_episode():
    with pytest.raises(ValueError, match="set interactions_per_update to None"):
        MemoryAware(window=2, interactions_per_update=1)
