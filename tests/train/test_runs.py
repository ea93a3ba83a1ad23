"""Runs: sharded = single, resumed = uninterrupted, interruptions, broken and foreign checkpoints."""

import json
import shutil
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from interrupting import stopped_in_update
from small import mixture_config, random_conversations, small_config, small_model, small_recipe

from rxt_jax import run as runs
from rxt_jax import run_stage
from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.recipe import StageRun, from_json, to_json
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import claim_folder, load, write_recipe
from rxt_jax.scaling import collectives_of, product_operations, total_by_kind
from rxt_jax.sharding import AXIS_RULES, MeshConfig, batch_shardings, make_mesh, parameter_shardings, state_shardings
from rxt_jax.stages import InteractionSft, JointPretraining, MemoryAware
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step, step_root


def flat(params):
    return {path: np.asarray(variable[...]) for path, variable in flat_parameters(params).items()}


THREE_WAYS = MeshConfig(data=2, fsdp=2, tensor=2, replicate_indivisible=("kv_heads",))


@lru_cache(maxsize=8)
def steps_on_mesh(mesh_config, devices, updates=3, mixture=False):
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    graphdef, params = nnx.split(small_model(mixture_config() if mixture else small_config()))
    stage = MemoryAware()
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3), params, total_updates=10, trainable=stage.trainable)
    state = make_train_state(params, optimizer)
    shardings = state_shardings(state, flat_parameters(params), mesh, mesh_config.replicate_indivisible)
    state = jax.device_put(state, shardings)
    step = make_train_step(graphdef, stage, optimizer, seed=0, state_shardings=shardings)
    losses, compiled = [], None
    for update in range(updates):
        batch = jax.tree.map(jnp.asarray, random_conversations(update, rows=8))
        batch = jax.device_put(batch, batch_shardings(batch, mesh, 1))
        compiled = step.lower(state, batch).compile() if compiled is None else compiled
        state, metrics = compiled(state, batch, step_root(0, 0))
        losses.append(float(metrics["loss"][0]))
    PROGRAMS[mesh_config, devices, mixture] = compiled.as_text()
    return losses, state


PROGRAMS = {}
"""The text of every program that was compiled above."""


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8),
        pytest.param(THREE_WAYS, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_eight_devices_equal_one(mesh):
    single, _ = steps_on_mesh(MeshConfig(), 1)
    sharded, state = steps_on_mesh(mesh, 8)
    np.testing.assert_allclose(sharded, single, rtol=2e-5)
    placed = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
    assert placed == {8}


def test_devices_share_the_work_and_add_up_gradients_alone():
    """Whole steps of other stages and with experts are among the slow tests, see test_shared_work.py."""
    _, state = steps_on_mesh(MeshConfig(), 1)
    steps_on_mesh(MeshConfig(data=8), 8)
    alone, together = PROGRAMS[MeshConfig(), 1, False], PROGRAMS[MeshConfig(data=8), 8, False]
    assert product_operations(together) <= 1.05 * product_operations(alone) / 8
    kinds = total_by_kind(collectives_of(together))
    sizes = {path: variable[...].nbytes for path, variable in flat_parameters(state.params).items()}
    network = sum(size for path, size in sizes.items() if path.startswith("memory_attention"))
    interactions = 4  # of `random_conversations`
    assert set(kinds) == {"all-reduce"}
    # Gradients are added up once, those of the memory network once per interaction.
    assert kinds["all-reduce"].bytes <= 1.01 * (sum(sizes.values()) + (interactions - 1) * network)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(data=2, expert=4), MeshConfig(data=8)], ids=str)
def test_experts_on_eight_devices_equal_one(mesh):
    single, _ = steps_on_mesh(MeshConfig(), 1, mixture=True)
    sharded, _ = steps_on_mesh(mesh, 8, mixture=True)
    np.testing.assert_allclose(sharded, single, rtol=2e-5)


def test_every_parameter_axis_has_a_rule_and_moments_live_with_their_parameters():
    mesh = make_mesh(THREE_WAYS)
    _, state = steps_on_mesh(THREE_WAYS, 8)
    shardings, split = parameter_shardings(flat_parameters(state.params), mesh, THREE_WAYS.replicate_indivisible), 0
    for path, variable in flat_parameters(state.params).items():
        assert set(variable.get_metadata()["axes"]) <= AXIS_RULES.keys(), path
        split += any(axis is not None for axis in shardings[path].spec)
    assert split > 10
    flat_state = jax.tree_util.tree_leaves_with_path(state.opt_state)
    moments = {jax.tree_util.keystr(path): leaf for path, leaf in flat_state}
    head = next(leaf for path, leaf in moments.items() if "decoder/head/kernel" in path)
    assert head.sharding.spec == shardings["decoder/head/kernel"].spec


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"needs 3 devices, but there are 8"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ValueError, match="one of them may be -1"):
        MeshConfig(data=-1, fsdp=-1)
    batch = random_conversations(rows=3)
    with pytest.raises(ValueError, match=r"multiple of data × fsdp × expert = 8"):
        batch_shardings(batch, make_mesh(MeshConfig()), 1)


STAGES = {"joint": JointPretraining(), "memory": MemoryAware()}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


def losses_of(folder, stage):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["update"]: line["loss"] for line in lines if line["stage"] == stage and line["split"] == "train"}


@pytest.mark.slow
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path):
    recipe = small_recipe(tmp_path / "whole", STAGES)
    assert run_recipe(recipe, quiet=True)
    whole = flat(nnx.split(load(tmp_path / "whole").model)[1])

    cut = replace(recipe, folder=str(tmp_path / "cut"))
    for stop_at in (2, 1):  # in the first stage, then, resumed, in the second
        with stopped_in_update(stop_at):
            assert not run_recipe(cut, quiet=True)
    other = replace(cut, data=replace(cut.data, mask_probability=0.3))
    with pytest.raises(ValueError, match=r"data\.mask_probability = 0\.15, this one has 0\.3"):
        run_recipe(other, quiet=True)
    assert run_recipe(cut, quiet=True)
    resumed = flat(nnx.split(load(tmp_path / "cut").model)[1])
    for path, value in whole.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)
    for stage in STAGES:
        assert losses_of(tmp_path / "cut", stage) == losses_of(tmp_path / "whole", stage)


def test_a_finished_run_is_not_run_again(copied_run, monkeypatch):
    metrics = copied_run.run_folder / "metrics.jsonl"
    before = metrics.read_text()
    assert before

    def refuse(*_, **__):
        raise AssertionError("a finished stage was trained again")

    monkeypatch.setattr(run_stage, "run_loop", refuse)
    assert run_recipe(copied_run, quiet=True)
    assert metrics.read_text() == before


def test_a_broken_checkpoint_is_passed_over_and_said_so(copied_run, tmp_path, caplog):
    expected = flat(nnx.split(load(tmp_path / "run").model)[1])
    newest = tmp_path / "run" / "stages" / "sft" / "4"
    for item in ("params", "optimizer"):
        for file in (newest / item).rglob("*"):
            if file.is_file() and file.stat().st_size > 0 and "manifest" not in file.name:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with caplog.at_level("WARNING"):
        assert run_recipe(copied_run, quiet=True)
    assert "update 4" in caplog.text
    assert "passed over" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4, 3, 4]
    recovered = flat(nnx.split(load(tmp_path / "run").model)[1])
    assert recovered.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(recovered[path], value, err_msg=path)


def test_checkpoints_and_folders_of_another_config_are_refused(copied_run):
    recipe = copied_run
    wider = replace(recipe, model=replace(recipe.model, num_slots=5))
    with pytest.raises(ValueError, match=r"another model: model\.num_slots was 4 and is 5"):
        run_recipe(wider, quiet=True)
    run: StageRun = recipe.stages["sft"]
    longer = replace(recipe, stages={"sft": replace(run, batch_size=16)})
    with pytest.raises(ValueError, match=r"another stage: stage\.batch_size was 8 and is 16"):
        run_recipe(longer, quiet=True)


def test_another_tokenizer_is_refused_when_a_run_goes_on_and_when_it_is_loaded(copied_run, tmp_path):
    other = train_tokenizer(["quite another text"] * 9, TokenizerConfig(vocab_size=512), tmp_path / "run")
    with pytest.raises(ValueError, match=rf"but that of the run folder is {other.fingerprint[:12]}"):
        load(tmp_path / "run")
    longer = replace(copied_run, model=replace(copied_run.model, vocab_size=other.vocab_size))
    with pytest.raises(ValueError, match=r"was trained with the tokenizer"):
        run_recipe(longer, quiet=True)


def test_loading_says_what_is_missing(copied_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "run" / "stages")
    with pytest.raises(FileNotFoundError, match="no readable checkpoint"):
        load(tmp_path / "run")


def test_a_folder_of_an_earlier_version_is_taken_up(tmp_path):
    recipe = small_recipe(tmp_path, STAGES)
    write_recipe(recipe, tmp_path)
    file = tmp_path / "recipe.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    attention = content["recipe"]["model"]["encoder"]["attention"]
    del attention["implementation"]  # came later
    file.write_text(json.dumps(content), encoding="utf-8")
    claim_folder(recipe, tmp_path)
    attention["dropout"] = 0.5
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"model\.encoder\.attention\.dropout was 0\.5"):
        claim_folder(recipe, tmp_path)


def test_recipes_survive_json_and_unknown_fields_are_named(tmp_path):
    recipe = small_recipe(tmp_path, STAGES)
    written = json.loads(json.dumps(to_json(recipe)))
    assert from_json(written) == recipe
    assert from_json(to_json(JointPretraining()) | {"mask_id": 4}) == JointPretraining()  # as runs were written before
    written["model"]["colour"] = "red"
    with pytest.raises(ValueError, match=r"recipe\.model: ModelConfig has no field colour"):
        from_json(written)


@pytest.mark.slow
def test_accumulated_micro_batches_are_one_batch():
    graphdef, params = nnx.split(small_model())
    stage = MemoryAware()
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=10, trainable=stage.trainable)
    batch = random_conversations(rows=8)
    results = []
    for accumulation in (1, 4):
        step = make_train_step(graphdef, stage, optimizer, seed=0, accumulation=accumulation)
        state, metrics = step(make_train_state(params, optimizer), batch)
        results.append((float(metrics["loss"][0]), flat(state.params)))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for path, value in results[0][1].items():
        np.testing.assert_allclose(results[1][1][path], value, atol=1e-5, err_msg=path)


def test_the_step_compiles_once():
    graphdef, params = nnx.split(small_model())
    stage, traces = MemoryAware(), []

    class Counted(MemoryAware):
        def objective(self, *arguments):
            traces.append(1)
            return super().objective(*arguments)

    counted = Counted()
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=10, trainable=stage.trainable)
    step = make_train_step(graphdef, counted, optimizer, seed=0)
    state = make_train_state(params, optimizer)
    for seed in range(3):
        state, _ = step(state, random_conversations(seed))
    assert len(traces) == 1


def what_it_begins_with(recipe):
    begun = {}

    def keep_and_stop(stage, beginning, *_):
        begun.update(flat(beginning.read()))
        return beginning, False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.StageInFolder, "train", keep_and_stop)
        run_recipe(recipe)
    return begun


def test_parts_can_start_fresh_though_the_other_run_has_them(finished_run, tmp_path, capsys):
    first, start = finished_run, str(finished_run.run_folder / "stages" / "sft")
    again = replace(first, seed=first.seed + 1, start_from=start, start_fresh=("memory_attention", "decoder/head"))
    begun = what_it_begins_with(replace(again, folder=str(tmp_path / "again")))
    expected = flat(nnx.split(load(start).model)[1])
    differing = {path for path, value in begun.items() if not np.array_equal(value, expected[path])}
    assert {path.split("/")[0] for path in differing} == {"memory_attention", "decoder"}
    assert {path for path in differing if path.startswith("decoder")} <= {"decoder/head/kernel", "decoder/head/bias"}
    printed = capsys.readouterr().out.replace("\n", "")
    assert all(path in printed for path in differing)


def test_a_part_that_is_none_is_refused(finished_run, tmp_path):
    start = str(finished_run.run_folder)
    wrong = replace(finished_run, start_from=start, start_fresh=("memory",), folder=str(tmp_path / "again"))
    with pytest.raises(ValueError, match=r"no parameters in 'memory'; its parts are decoder, .*memory_attention"):
        run_recipe(wrong)
    with pytest.raises(ValueError, match="needs start_from"):
        replace(finished_run, start_fresh=("memory_attention",))


def test_a_run_that_starts_from_another_takes_what_fits(finished_run, tmp_path, capsys):
    first = finished_run
    model = replace(first.model, num_slots=first.model.num_slots + 1)
    start = str(first.run_folder / "stages" / "sft")
    begun = what_it_begins_with(replace(first, model=model, start_from=start, folder=str(tmp_path / "second")))
    expected = flat(nnx.split(load(start).model)[1])
    differing = {path for path, value in begun.items() if not np.array_equal(value, expected[path])}
    assert differing and all("slot" in path or "memory" in path for path in differing)
    printed = capsys.readouterr().out
    assert all(path in printed.replace("\n", "") for path in differing)
    taken, given = ((each / "tokenizer.model").read_bytes() for each in (tmp_path / "second", first.run_folder))
    assert taken == given


def test_a_run_whose_last_stage_has_no_checkpoint_says_whose_parameters_it_gives(finished_run, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(finished_run.run_folder, folder)
    whole = load(folder)
    (name,) = whole.recipe.stages
    assert not caplog.records
    write_recipe(replace(whole.recipe, stages=whole.recipe.stages | {"later": whole.recipe.stages[name]}), folder)
    found = load(folder)
    assert f"parameters of stage {name}, no readable checkpoint of later" in caplog.text
    for path, value in flat(nnx.split(whole.model)[1]).items():
        np.testing.assert_array_equal(flat(nnx.split(found.model)[1])[path], value)


def test_a_stage_reads_the_data_of_the_recipe_with_what_it_says_itself(tmp_path):
    recipe = small_recipe(tmp_path, {"first": InteractionSft()})
    data, run = replace(recipe.data, value_weight=2.0), recipe.stages["first"]
    recipe = replace(recipe, data=data)
    assert recipe.data_of(run) == data
    own = replace(run, max_interactions=2, value_weight=3.0)
    assert recipe.data_of(own) == replace(data, max_interactions=2, value_weight=3.0)
    # Also where the data are its own.
    own = replace(own, data=replace(data.source, seed=data.source.seed + 1))
    assert recipe.data_of(own) == replace(data, source=own.data, max_interactions=2, value_weight=3.0)
    assert from_json(to_json(own)) == own


@pytest.mark.slow
def test_a_stage_with_data_of_its_own_trains_on_them(tmp_path, capsys):
    recipe = small_recipe(tmp_path / "one", {"first": InteractionSft(), "second": InteractionSft()})
    other = replace(recipe.data.source, seed=recipe.data.source.seed + 1)
    second = replace(recipe.stages["second"], data=other)
    apart = replace(recipe, folder=str(tmp_path / "two"), stages=recipe.stages | {"second": second})
    # The same folder's tokenizer and first stage: only the second stage may differ.
    models = []
    for each in (recipe, apart):
        run_recipe(each)
        assert ("with data of their own: second\n" in capsys.readouterr().out) == (each is apart)
        models.append({name: flat(nnx.split(load(each.run_folder / "stages" / name).model)[1]) for name in each.stages})
    for path, value in models[0]["first"].items():
        np.testing.assert_array_equal(value, models[1]["first"][path])
    assert any((value != models[1]["second"][path]).any() for path, value in models[0]["second"].items())
    assert from_json(to_json(apart)) == apart


def test_a_parameter_that_a_checkpoint_lacks_is_missed_also_where_it_is_read_in_parts(tmp_path, monkeypatch, caplog):
    store = CheckpointStore(tmp_path)
    stored = {name: jnp.arange(8.0) for name in ("a", "b", "c")}
    store.save(1, stored, (), {})
    store.wait()
    monkeypatch.setattr("rxt_jax.checkpoint._PART_BYTES", 32)

    def wanted(**more):
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in (stored | more).items()
        }

    assert store.restore(wanted(), None).params.keys() == stored.keys()
    assert store.restore(wanted(d=jnp.zeros(8)), None) is None
    assert "lacks the parameters d" in caplog.text
    assert store.restore(wanted(a=jnp.zeros(9)), None) is None
