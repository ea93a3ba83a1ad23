"""Where parameters live: what a mesh cannot split is said, and nothing is in memory twice when a run begins."""

import gc
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from rich.console import Console
from small import dialogue_tokenizer, small_config, small_recipe

from rxt_jax import run as runs
from rxt_jax import run_stage
from rxt_jax.model.fresh_parameters import abstract_model, build_model, fresh_parameters
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import read_parameters, write_run
from rxt_jax.sharding import MeshConfig, find_indivisible, make_mesh, parameter_shardings
from rxt_jax.stages import MemoryAware
from rxt_jax.train.loop import LoopConfig, LoopResult
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import abstract_state, begin_training

MESH = MeshConfig(data=2, fsdp=2, tensor=2, replicate_indivisible=("kv_heads",))


def variables(**changes):
    return flat_parameters(abstract_model(small_config(**changes))[1])


def test_what_a_mesh_cannot_split_is_an_error_with_parameters_and_sizes_until_it_is_chosen():
    mesh = make_mesh(replace(MESH, data=1, tensor=4))
    with pytest.raises(ValueError, match=r"cannot split these parameters") as raised:
        parameter_shardings(variables(), mesh)
    message = str(raised.value)
    assert "kv_heads = 1 does not divide by tensor = 4: " in message and "/attention/key/kernel" in message
    assert "query_heads = 2 does not divide by tensor = 4" in message
    assert "mesh.replicate_indivisible = (" in message and "vocab" not in message
    with pytest.raises(ValueError, match="query_heads = 2") as raised:
        parameter_shardings(variables(), mesh, ("kv_heads",))
    assert "kv_heads = 1" not in str(raised.value)
    shardings = parameter_shardings(variables(), mesh, ("kv_heads", "query_heads"))
    found = variables()
    for path, axis, size, _, parts in find_indivisible(found, mesh):
        axes = found[path].get_metadata()["axes"]
        place = len(shardings[path].spec) - len(axes) + axes.index(axis)
        assert shardings[path].spec[place] is None and size % parts
    assert shardings["decoder/head/kernel"].spec == P("fsdp", "tensor")


def test_a_mesh_that_divides_everything_needs_no_choice_and_unknown_choices_are_refused():
    assert not find_indivisible(variables(), make_mesh(MeshConfig(data=4, fsdp=2)))
    with pytest.raises(ValueError, match=r"replicate_indivisible names heads; a mesh splits vocab, embed"):
        MeshConfig(replicate_indivisible=("heads",))


def test_the_choice_is_listed_when_a_run_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.StageInFolder, "train", lambda stage, beginning, *_: (beginning, True))
    recipe = small_recipe(tmp_path / "run", {"memory": MemoryAware()}, mesh=MESH)
    for each, expected in ((recipe, True), (replace(recipe, mesh=MeshConfig()), False)):
        console = Console(record=True, width=200, quiet=False)
        assert run_recipe(each, console=console)
        text = console.export_text()
        assert ("kv_heads = 1 does not divide by tensor = 2: decoder/" in text) == expected
    with pytest.raises(ValueError, match="kv_heads = 1"):
        run_recipe(replace(recipe, mesh=replace(MESH, replicate_indivisible=())), quiet=True)


@pytest.mark.slow
def test_fresh_parameters_are_made_in_their_parts_with_the_numbers_of_one_device():
    mesh = make_mesh(MESH)
    shardings = parameter_shardings(variables(), mesh, MESH.replicate_indivisible)
    made = fresh_parameters(small_config(), 3, shardings)
    whole = flat_parameters(nnx.split(build_model(small_config(), 3))[1])
    assert made.keys() == whole.keys()
    for path, value in made.items():
        assert value.sharding == shardings[path]
        np.testing.assert_array_equal(value, whole[path][...], err_msg=path)
    head = "decoder/head/kernel"
    some = fresh_parameters(small_config(), 3, {head: shardings[head]})
    assert list(some) == [head]
    np.testing.assert_array_equal(some[head], made[head])


def test_a_state_takes_its_parameters_over_and_is_born_where_it_lives():
    config, mesh, stage = small_config(), make_mesh(MESH), MemoryAware()
    optimizer = make_optimizer(OptimizerConfig(), abstract_model(config)[1], total_updates=3, trainable=stage.trainable)
    params = nnx.split(build_model(config, 0))[1]
    shapes = abstract_state(params, optimizer, stage, mesh, MESH.replicate_indivisible)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    # Read before it is placed: an array that was read on the host is not given away (JAX 0.11).
    expected = np.array(flat_parameters(params)["decoder/head/kernel"].get_value())
    params = jax.device_put(params, shardings.params)
    kernel = flat_parameters(params)["decoder/head/kernel"].get_value()
    before = {shard.device: shard.data.unsafe_buffer_pointer() for shard in kernel.addressable_shards}
    state = begin_training(params, optimizer, stage, shardings)
    assert kernel.is_deleted()
    moved = flat_parameters(state.params)["decoder/head/kernel"].get_value()
    assert {shard.device: shard.data.unsafe_buffer_pointer() for shard in moved.addressable_shards} == before
    np.testing.assert_array_equal(moved, expected)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert leaf.sharding == wanted.sharding and leaf.shape == wanted.shape and leaf.dtype == wanted.dtype


@pytest.mark.slow
def test_nothing_is_alive_twice_at_start_stage_change_and_resume(tmp_path, monkeypatch):
    recipe = small_recipe(tmp_path / "run", {"first": MemoryAware(), "second": MemoryAware()}, mesh=MESH)
    loop = LoopConfig(log_every=1)
    recipe = replace(recipe, stages={name: replace(run, loop=loop) for name, run in recipe.stages.items()})
    gc.collect()
    others = {id(array): array for array in jax.live_arrays()}
    met = []

    def only_save(name, step, state, batches, *, start, updates, save, **_):
        gc.collect()
        alive = sum(array.nbytes for array in jax.live_arrays() if id(array) not in others)
        met.append((name, start, alive / sum(leaf.nbytes for leaf in jax.tree.leaves(state))))
        save(updates if name == "first" else 1, state, {})
        return LoopResult(state, name == "first", 0.0, 0.0, {"data": 0.0})

    monkeypatch.setattr(run_stage, "run_loop", only_save)
    for _ in range(2):
        assert not run_recipe(recipe, quiet=True)
    assert [each[:2] for each in met] == [("first", 0), ("second", 0), ("second", 1)]
    assert max(alive for *_, alive in met) < 1.05


def test_another_run_is_read_in_parts_and_what_does_not_fit_is_left_out(tmp_path):
    model, tokenizer = build_model(small_config(max_length=40, vocab_size=640), 0), dialogue_tokenizer()
    write_run(tmp_path / "other", model, tokenizer)
    mesh, found = make_mesh(MESH), variables(max_length=40, vocab_size=640, num_slots=6)
    shardings = parameter_shardings(found, mesh, MESH.replicate_indivisible)
    wanted = {
        path: jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=shardings[path])
        for path, variable in found.items()
    }
    values = read_parameters(tmp_path / "other", wanted)
    stored = flat_parameters(nnx.split(model)[1])
    assert (
        wanted.keys() - values.keys() == {path for path in wanted if wanted[path].shape != stored[path].shape} != set()
    )
    for path, value in values.items():
        assert value.sharding == shardings[path]
        np.testing.assert_array_equal(value, stored[path][...], err_msg=path)
