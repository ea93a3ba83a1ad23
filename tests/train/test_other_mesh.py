"""Meshes of several shapes: a run goes on where devices are arranged otherwise, and experts live apart."""

import json
import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import small_recipe
from test_contract import NextToken

from rxt_jax import run_stage
from rxt_jax.nn.mixture_of_experts import MixtureConfig, MixtureOfExperts
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import load
from rxt_jax.scaling import product_operations
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh, state_shardings


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["update"]: line["loss"] for line in lines if line["split"] == "train"}


@pytest.fixture
def states(monkeypatch):
    """Collect, of every stage that is trained, the state at its beginning and at its end, and where it lived."""
    collected, run_loop = [], run_stage.run_loop

    def watched(name, step, state, *arguments, **options):
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        begun = jax.tree.map(np.array, state)  # the step uses the arrays up
        result = run_loop(name, step, state, *arguments, **options)
        collected.append((begun, jax.tree.map(np.array, result.state), placed))
        return result

    monkeypatch.setattr(run_stage, "run_loop", watched)
    return collected


@pytest.mark.slow
def test_a_run_goes_on_on_a_mesh_of_another_shape(tmp_path, monkeypatch, states):
    """What was saved comes back bit for bit, parameters and moments alike, on all devices of the new mesh."""
    recipe = small_recipe(tmp_path / "whole", {"next": NextToken()}, mesh=MeshConfig(data=2, fsdp=4))
    assert run_recipe(recipe, quiet=True)
    cut = replace(recipe, folder=str(tmp_path / "cut"))
    make_train_step = run_stage.make_train_step

    def stop_after_two(*arguments, **options):
        step, done = make_train_step(*arguments, **options), []

        def stepped(state, batch):
            done.append(batch)
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        return stepped

    with monkeypatch.context() as patch:
        patch.setattr(run_stage, "make_train_step", stop_after_two)
        assert not run_recipe(cut, quiet=True)
    assert run_recipe(replace(cut, mesh=MeshConfig(data=8)), quiet=True)

    _, (_, saved, before), (begun, _, after) = states
    assert int(begun.update) == 2
    assert jax.tree.structure(begun) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, begun, saved)
    assert {len(each.device_set) for each in jax.tree.leaves((before, after))} == {8}
    split, whole = ([each.is_fully_replicated for each in jax.tree.leaves(placed)] for placed in (before, after))
    assert split.count(False) > 10 and all(whole)
    # Devices add up in another order, so the updates that follow differ by rounding.
    whole, found = losses_of(tmp_path / "whole"), losses_of(tmp_path / "cut")
    assert found.keys() == whole.keys() == {1, 2, 3, 4}
    np.testing.assert_allclose([*found.values()], [*whole.values()], rtol=2e-5)
    expected, model = (flat_parameters(nnx.split(load(tmp_path / name).model)[1]) for name in ("whole", "cut"))
    for path, variable in expected.items():
        np.testing.assert_allclose(model[path][...], variable[...], atol=1e-4, err_msg=path)


def test_experts_of_their_own_devices_are_those_of_one():
    """Values and slopes of a mixture with routed and shared experts; a whole train step is among the slow tests."""
    config = MixtureConfig(num_experts=4, experts_per_token=2, mlp_dim=12, num_shared_experts=2)
    graphdef, params = nnx.split(MixtureOfExperts(16, config, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (8, 6, 16))

    mesh = make_mesh(MeshConfig(data=2, expert=4))

    @jax.jit
    def learn(params, x):
        def loss(params, x):
            y, balance = nnx.merge(graphdef, params)(x)
            return jnp.sum(jnp.sin(y)) + balance, y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    placed = jax.device_put(params, state_shardings(params, flat_parameters(params), mesh))
    rows = jax.device_put(x, batch_shardings(x, mesh, 0))
    with jax.set_mesh(mesh):
        together = learn.lower(placed, rows).compile()
    found = together(placed, rows)
    routed = {path: value[...] for path, value in flat_parameters(placed).items() if path.startswith("experts/")}
    assert routed
    for path, value in routed.items():
        assert "expert" in value.sharding.spec, path
        assert {shard.data.size for shard in value.addressable_shards} == {value.size // 4}, path
    for one, other in zip(*(jax.tree.leaves(each) for each in (found, learn(params, x))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    # Each device runs the experts of its own row, as many operations as it would take alone.
    alone = learn.lower(params, x[:1]).compile().as_text()
    assert product_operations(together.as_text()) <= 1.05 * product_operations(alone)
