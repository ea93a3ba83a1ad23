"""Meshes of several shapes: a run goes on where devices are arranged otherwise, and experts live apart."""

import json
import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from conversation import random_rows
from flax import nnx
from small import small_config, small_model, small_recipe

from rxt_jax import run as runs
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import load
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh, state_shardings
from rxt_jax.stages import InteractionSft
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["update"]: line["loss"] for line in lines if line["split"] == "train"}


@pytest.fixture
def states(monkeypatch):
    """Collect, of every stage that is trained, the state at its beginning and at its end, and where it lived."""
    collected, run_loop = [], runs.run_loop

    def watched(name, step, state, *arguments, **options):
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        begun = jax.tree.map(np.array, state)  # the step uses the arrays up
        result = run_loop(name, step, state, *arguments, **options)
        collected.append((begun, jax.tree.map(np.array, result.state), placed))
        return result

    monkeypatch.setattr(runs, "run_loop", watched)
    return collected


def test_a_run_goes_on_on_a_mesh_of_another_shape(tmp_path, monkeypatch, states):
    """What was saved comes back bit for bit, parameters and moments alike, on all devices of the new mesh."""
    recipe = small_recipe(tmp_path / "whole", {"sft": InteractionSft()}, mesh=MeshConfig(data=2, fsdp=4))
    assert run_recipe(recipe, quiet=True)
    cut = replace(recipe, folder=str(tmp_path / "cut"))
    make_train_step = runs.make_train_step

    def stop_after_two(*arguments, **options):
        step, done = make_train_step(*arguments, **options), []

        def stepped(state, batch):
            done.append(batch)
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        return stepped

    with monkeypatch.context() as patch:
        patch.setattr(runs, "make_train_step", stop_after_two)
        assert not run_recipe(cut, quiet=True)
    assert run_recipe(replace(cut, mesh=MeshConfig(data=8)), quiet=True)

    _, (_, saved, before), (begun, _, after) = states
    assert int(begun.update) == 2
    assert jax.tree.structure(begun) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, begun, saved)
    assert {len(each.device_set) for each in jax.tree.leaves((before, after))} == {8}
    split = [any(each.spec) for each in jax.tree.leaves(before)]
    assert sum(split) > 10 and not any(any(each.spec) for each in jax.tree.leaves(after))
    # Devices add up in another order, so the updates that follow differ by rounding.
    whole, found = losses_of(tmp_path / "whole"), losses_of(tmp_path / "cut")
    assert found.keys() == whole.keys() == {1, 2, 3, 4}
    np.testing.assert_allclose([*found.values()], [*whole.values()], rtol=2e-5)
    expected, model = (flat_parameters(nnx.split(load(tmp_path / name).model)[1]) for name in ("whole", "cut"))
    for path, variable in expected.items():
        np.testing.assert_allclose(model[path][...], variable[...], atol=1e-4, err_msg=path)


def test_experts_of_their_own_devices_learn_as_on_one():
    config = small_config(num_layers=1)
    mixture = MixtureConfig(num_experts=4, experts_per_token=2, mlp_dim=12, num_shared_experts=2)
    config = replace(config, decoder=replace(config.decoder, feed_forward=mixture))
    graphdef, params = nnx.split(small_model(config))
    stage, batch = InteractionSft(), random_rows(rows=8)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3), params, total_updates=10, trainable=stage.trainable)

    def update(mesh):
        state = make_train_state(params, optimizer)
        shardings = state_shardings(state, flat_parameters(params), mesh)
        step = make_train_step(graphdef, stage, optimizer, seed=0, state_shardings=shardings)
        placed = jax.device_put(batch, batch_shardings(batch, mesh, 0))
        state, metrics = step(jax.device_put(state, shardings), placed)
        return float(metrics["loss"][0]), flat_parameters(state.params)

    loss, expected = update(make_mesh(MeshConfig(), jax.devices()[:1]))
    found_loss, found = update(make_mesh(MeshConfig(data=2, expert=4)))
    assert found_loss == pytest.approx(loss, rel=2e-5)
    routed = [path for path in found if "/experts/" in path]
    assert routed
    for path in routed:
        value = found[path][...]
        shares = {shard.data.shape for shard in value.addressable_shards}
        assert "expert" in value.sharding.spec and {np.prod(share) for share in shares} == {value.size // 4}, path
    for path, variable in expected.items():
        np.testing.assert_allclose(found[path][...], variable[...], atol=1e-5, err_msg=path)
