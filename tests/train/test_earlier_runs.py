"""A run folder that an earlier version wrote goes on; files of a run are never half written.

`tests/fixtures/write_earlier_run.py` says what is in the archive: checkpoints of commit f0e3825, in which optimizer
state has numbers, and the losses that this version went on with.
"""

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_recipe

from rxt_jax import run as runs
from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.model.fresh_parameters import abstract_model
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.recipe import from_json
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import write_recipe
from rxt_jax.sharding import make_mesh
from rxt_jax.stages import InteractionSft
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.state import abstract_state

ARCHIVE = Path(__file__).parent.parent / "fixtures" / "earlier_run.tar.xz"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """Unpack the run, and stand where its relative paths point from."""
    with tarfile.open(ARCHIVE) as packed:
        # Python has the filter since 3.11.4; the file is our own.
        packed.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    monkeypatch.chdir(tmp_path)
    content = json.loads(Path("run/recipe.json").read_text(encoding="utf-8"))["recipe"]
    assert "replicate_indivisible" not in content["mesh"]  # a field that came later, with a default
    return from_json(content)


@pytest.mark.parametrize("stages", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_it_goes_on_as_it_would_have_then(earlier, stages):
    names = list(earlier.stages)[:stages]
    assert run_recipe(replace(earlier, stages={name: earlier.stages[name] for name in names}), quiet=True)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = json.loads(Path("expected.json").read_text(encoding="utf-8"))
    for name in names:
        found = {line["update"]: line["loss"] for line in lines if line["stage"] == name}
        assert list(found) == [3, 4, 5], name
        np.testing.assert_allclose(list(found.values()), expected[name], rtol=2e-5, err_msg=name)
        stored = CheckpointStore(Path("run/stages", name))
        written = stored._manager.item_metadata(5)["optimizer"]
        stored.close()
        # What is written today says what it is.
        assert written and all(path.startswith(("optimizer/", "stage/")) for path in written)


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("sft", {"mu": False, "nu": True}),
        ("muon", {"mu": False, "nu": True}),
        ("adafactor", {"v": True}),
        ("preferences", {"mu": False}),
    ],
)
def test_numbered_state_comes_back_as_what_it_was(earlier, name, moments):
    """Second moments are squares, first moments have both signs, counters are at 2: a wrong order would show."""
    run = earlier.stages[name]
    params = abstract_model(earlier.model)[1]
    optimizer = make_optimizer(run.optimizer, params, total_updates=5, trainable=run.stage.trainable)
    state = abstract_state(params, optimizer, run.stage, runs.make_mesh(earlier.mesh))
    flat = {path: variable.get_value() for path, variable in flat_parameters(state.params).items()}
    store = CheckpointStore(Path("run/stages", name))
    found = store.restore(flat, {"optimizer": state.opt_state, "stage": state.carry}).optimizer
    store.close()
    by_field = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(found["optimizer"]):
        field = next(key.name for key in reversed(path) if isinstance(key, jax.tree_util.GetAttrKey))
        by_field.setdefault(field, []).append(np.asarray(leaf).ravel())
    assert set(np.concatenate(by_field["count"])) == {2}
    for field, squared in moments.items():
        values = np.concatenate(by_field[field])
        assert np.any(values > 0.0) and np.any(values < 0.0) != squared, field
    if run.stage.kind == "direct_memory_preference":
        reference = found["stage"]
        assert reference.keys() == {path for path in flat if path.startswith(("embedding", "decoder"))}


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def saved(folder, optimizer):
    store = CheckpointStore(folder)
    store.save(3, {"weight": jnp.ones(2)}, optimizer, {})
    store.wait()
    return store


def test_optimizer_state_is_found_by_its_path_and_never_by_its_place(tmp_path):
    before = {"group": {"mu": {"a/b": jnp.arange(3.0)}, "nu": {"a/b": jnp.arange(3.0) + 10}}, "stage": {}}
    store = saved(tmp_path, before)
    # Another field comes first now; the same shapes everywhere.
    swapped = {"group": {"nu": before["group"]["nu"], "mu": before["group"]["mu"]}, "stage": {}}
    found = store.restore(shapes({"weight": jnp.ones(2)}), shapes(swapped)).optimizer
    np.testing.assert_array_equal(found["group"]["mu"]["a/b"], before["group"]["mu"]["a/b"])
    np.testing.assert_array_equal(found["group"]["nu"]["a/b"], before["group"]["nu"]["a/b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: group | {"step": jnp.zeros(())}, "it lacks group/step"),
        (lambda group: {"mu": group["mu"]}, "it also has group/nu/a/b"),
        (lambda group: group | {"nu": {"a/b": jnp.zeros(4)}}, r"has group/nu/a/b in the shape \[3\] instead of \[4\]"),
    ],
)
def test_the_state_of_another_optimizer_is_an_error_and_no_reason_to_begin_again(tmp_path, change, message):
    group = {"mu": {"a/b": jnp.arange(3.0)}, "nu": {"a/b": jnp.zeros(3)}}
    store = saved(tmp_path, {"group": group})
    wanted = shapes({"group": change(group)})
    with pytest.raises(ValueError, match=message):
        store.restore(shapes({"weight": jnp.ones(2)}), wanted)


def test_a_recipe_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    recipe = small_recipe(tmp_path, {"sft": InteractionSft()})
    write_recipe(recipe, tmp_path)
    before = (tmp_path / "recipe.json").read_bytes()

    def full(descriptor):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write_recipe(replace(recipe, seed=1), tmp_path)
    assert (tmp_path / "recipe.json").read_bytes() == before
    write_recipe(replace(recipe, seed=1), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))["recipe"]["seed"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.json"]
