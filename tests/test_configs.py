"""Every recipe in configs/ loads, gets batches of its own kind of data, and has a first update that fits its state."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh
from published_sgd import FERRY, write_split
from small import dialogue_tokenizer

from rxt_jax.compile_check.example_batch import example_batch
from rxt_jax.compile_check.topology import parse_topology
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.model import make_model
from rxt_jax.model.fresh_parameters import abstract_model
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.recipe import load_recipe
from rxt_jax.run import make_batches
from rxt_jax.sharding import batch_shardings, find_indivisible, make_mesh, state_shardings
from rxt_jax.train.acting import make_acting
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

CONFIGS = Path(__file__).parents[1] / "configs"
ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))
SCALE = [file for file in ALL if file.startswith("scale/")]
FILES = [file for file in ALL if file not in SCALE]
DIALOGUES = 64  # as many as the largest batch has rows


# The others have the toy's stages, on other data or for a larger model.
QUICK = [each if each.startswith("toy") else pytest.param(each, marks=pytest.mark.slow) for each in FILES]


@pytest.fixture(params=QUICK)
def recipe(request, tmp_path, monkeypatch):
    """A recipe of this repository; those on real conversations find a few that were written for tests."""
    monkeypatch.setenv("RXT_SGD_FOLDER", str(tmp_path))
    boats = (FERRY, json.loads(json.dumps(FERRY).replace("Marta", "Ellen")))
    dialogues = [{**boats[number % 2], "dialogue_id": f"1_{number:05}"} for number in range(DIALOGUES)]
    for split in ("train", "dev"):
        write_split(tmp_path, split, dialogues)
    return load_recipe(CONFIGS / request.param)


def first_updates(recipe):
    """Give, for every stage, a function that begins it and updates once, and what it takes: parameters and a batch."""
    tokenizer = dialogue_tokenizer()
    model = replace(recipe.model, vocab_size=tokenizer.vocab_size)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make_model(model, rngs=nnx.Rngs(0))))
    mesh = make_mesh(recipe.mesh, jax.devices()[: recipe.cpu_devices or 1])
    for name, run in recipe.stages.items():
        data = recipe.data_of(run)
        encoder = RowEncoder(tokenizer, data)
        batches = [
            make_batches(run, open_source(source), encoder, recipe.seed, held_out=held_out)[0]
            for held_out, source in ((False, data.source), (True, run.stage.held_out(data)))
        ]
        for batch in batches:
            batch_shardings(batch, mesh, run.stage.batch_axis)
            assert getattr(batch, "chosen", batch).loss_mask.any(), name

        def update(params, batch, run=run):
            optimizer = make_optimizer(
                run.optimizer,
                params,
                total_updates=run.updates,
                trainable=run.stage.trainable,
                unfreeze=run.stage.unfreeze,
            )
            known = {"graphdef": graphdef, "tokenizer": tokenizer, "batch": batch}
            state = make_train_state(params, optimizer, run.stage, **known)
            shardings = state_shardings(state, flat_parameters(state.params), mesh)
            options = {"accumulation": run.accumulation, "state_shardings": shardings}
            step = make_train_step(graphdef, run.stage, optimizer, seed=recipe.seed, **options)
            act = make_acting(graphdef, run.stage, tokenizer, seed=recipe.seed)
            return state, *step(state, batch if act is None else act(state, batch, 0))

        yield name, update, params, batches[0]


def test_the_first_update_of_every_stage_fits(recipe):
    """Shapes alone: nothing is compiled."""
    for name, update, *given in first_updates(recipe):
        before, after, metrics = jax.eval_shape(update, *given)
        assert jax.tree.structure(after) == jax.tree.structure(before), name
        shapes, expected = ([(x.shape, x.dtype) for x in jax.tree.leaves(state)] for state in (after, before))
        assert shapes == expected, name
        assert metrics["loss"][0].shape == (), name


@pytest.mark.slow
def test_the_first_update_of_every_stage_compiles(recipe):
    for name, update, *given in first_updates(recipe):
        assert jax.jit(update).lower(*given).compile().as_text(), name


@pytest.mark.parametrize("file", SCALE)
def test_recipes_for_accelerators_divide_evenly_and_say_how_to_prove_that_they_fit(file):
    """Compiling them takes minutes: `rxt compile-check` does it, benchmarks/scaling_hosts.md has what it said."""
    recipe = load_recipe(CONFIGS / file)
    assert recipe.name == Path(file).stem
    sizes = [recipe.mesh.data, recipe.mesh.fsdp, recipe.mesh.tensor, recipe.mesh.expert]
    said = re.search(rf"rxt compile-check configs/{re.escape(file)} --topology (\S+)", (CONFIGS / file).read_text())
    assert said is not None and parse_topology(said[1]).size == math.prod(sizes)
    parameters = flat_parameters(abstract_model(recipe.model)[1])
    mesh = AbstractMesh(tuple(sizes), ("data", "fsdp", "tensor", "expert"))
    assert not find_indivisible(parameters, mesh)  # type: ignore[arg-type]
    for name, run in recipe.stages.items():
        assert run.batch_size % (math.prod(sizes) * run.accumulation) == 0, name
        assert example_batch(run.stage, recipe.data_of(run), 1).loss_mask.any()
    if not any(published in file for published in ("alpha", "beta")):
        # Our own are what the matrix units want; the published models are as they were published.
        assert recipe.model.decoder.attention.head_dim == 128 and recipe.model.embed_dim % 256 == 0


def test_there_are_recipes():
    assert {"toy.py", "companion.py", "sgd/small.py"} <= set(FILES) and len(SCALE) >= 4
