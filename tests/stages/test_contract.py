"""The contract of stages: one that is made here trains, acts, carries and resumes like those of the package."""

import json
import os
import shutil
import signal
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import small_recipe

from rxt_jax import run as runs
from rxt_jax import run_stage
from rxt_jax.data.config import DataConfig, DialogueData, FileData
from rxt_jax.data.curriculum import read_curriculum
from rxt_jax.data.loader import InteractionBatches
from rxt_jax.data.sources import open_source
from rxt_jax.losses.cross_entropy import projected_answer_cross_entropy
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.recipe import StageRun, curriculum_runs, from_json, to_json
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import load
from rxt_jax.sharding import make_mesh
from rxt_jax.stages import ConversationSft, DirectMemoryPreference, JointPretraining, MemoryAware, Stage
from rxt_jax.train.loop import LoopConfig


@dataclass(frozen=True, kw_only=True)
class NextToken(Stage):
    """A stage in twenty lines: answers of single interactions, read with nothing in memory."""

    kind = "next_token"
    rows = InteractionBatches

    trainable: tuple[str, ...] = ("embedding", "decoder")

    def label_counts(self, batch):
        return {"tokens": jnp.sum(batch.loss_mask[:, 1:], dtype=jnp.float32)}

    def objective(self, model, batch, key, counts):
        memory = model.initial_memory(len(batch.ids), jax.random.key(0))
        hidden, _ = model.decode_hidden(batch.ids, batch.token_mask, memory, key=key)
        found = projected_answer_cross_entropy(model.logits, hidden, batch.ids, jnp.asarray(batch.loss_mask))
        return found.loss / jnp.maximum(counts["tokens"], 1.0), {"answer/loss": (found.loss, found.count)}


@dataclass(frozen=True, kw_only=True)
class SelfPlay(NextToken):
    """Draws answers from the model as it is; every other row is one of the update before, which the stage carries."""

    kind = "self_play"

    def first_carry(self, beginning):
        assert set(beginning.groups) == set(self.trainable) and beginning.batch.ids.shape == (8, 40)
        return {"replay": jnp.zeros((8, 40), jnp.int32)}

    def next_carry(self, carry, batch, trained, update):
        return {"replay": jnp.asarray(batch.ids)}

    def make_act(self, graphdef, tokenizer, *, held_out=False):
        def act(params, carry, batch, update, key):
            model = nnx.merge(graphdef, params)
            logits = model.decode(batch.ids, batch.token_mask, model.initial_memory(8, jax.random.key(0)))
            drawn = jnp.roll(jax.random.categorical(key, logits), 1, axis=1)
            answered = jnp.where(batch.loss_mask, drawn, batch.ids)
            return batch._replace(ids=jnp.where(jnp.arange(8)[:, None] % 2, carry["replay"], answered))

        return act


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


def flat(folder):
    return {path: np.asarray(value[...]) for path, value in flat_parameters(nnx.split(load(folder).model)[1]).items()}


def losses_of(folder, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["update"]: line["loss"] for line in lines if (line["stage"], line["split"]) == ("second", split)}


@pytest.mark.slow
def test_a_stage_in_twenty_lines_trains_and_one_that_acts_resumes_bit_for_bit(tmp_path, monkeypatch):
    recipe = small_recipe(tmp_path / "whole", {"first": NextToken(), "second": SelfPlay()})
    loop = LoopConfig(log_every=1, evaluate_every=2)
    recipe = replace(recipe, stages={name: replace(run, loop=loop) for name, run in recipe.stages.items()})
    assert run_recipe(recipe, quiet=True)
    assert load(tmp_path / "whole").recipe.stages == recipe.stages
    first = flat(tmp_path / "whole" / "stages" / "first")
    second = flat(tmp_path / "whole")
    moved = {path.split("/")[0] for path, value in first.items() if not np.array_equal(value, second[path])}
    assert moved == {"embedding", "decoder"}

    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "stages" / "second")
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    cut = replace(recipe, folder=str(tmp_path / "cut"))
    original, stopped = run_stage.make_acting, []

    def make(*arguments, **options):
        act = original(*arguments, **options)

        def acted(state, batch, update):
            if update == 1 and not stopped:
                stopped.append(update)
                os.kill(os.getpid(), signal.SIGTERM)
            return act(state, batch, update)

        return act and acted

    with monkeypatch.context() as patch:
        patch.setattr(run_stage, "make_acting", make)
        assert not run_recipe(cut, quiet=True)
    meta = tmp_path / "cut" / "stages" / "second" / "2" / "meta" / "metadata"
    written = json.loads(meta.read_text())
    # As it was written when a stage run's data were called its source, and before `accumulation` was there.
    written["stage"] = {**written["stage"], "source": None}
    del written["stage"]["accumulation"]
    meta.write_text(json.dumps(written))
    assert run_recipe(cut, quiet=True)
    for path, value in flat(tmp_path / "cut").items():
        np.testing.assert_array_equal(value, second[path], err_msg=path)
    for split in ("train", "held_out"):
        assert losses_of(tmp_path / "cut", split) == losses_of(tmp_path / "whole", split)


def test_every_stage_reads_its_own_data(tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    texts = FileData(path=str(tmp_path / "texts.txt"), kind="text")
    dialogues = DialogueData(seed=5)
    own = DataConfig(source=dialogues, evaluation_source=replace(dialogues, split="iid"), max_length=24)
    stages = {
        "texts": JointPretraining(),
        "shared": NextToken(),
        "own": MemoryAware(),
        "preferences": DirectMemoryPreference(),
    }
    recipe = small_recipe(tmp_path / "run", stages)
    data = {"texts": texts, "own": own, "preferences": replace(own, source=replace(dialogues, preferences=True))}
    changed = {name: replace(run, data=data.get(name)) for name, run in recipe.stages.items()}
    changed["own"] = replace(changed["own"], max_interactions=3)
    recipe = replace(recipe, stages=changed)
    read = {}

    def keep(stage, params, source, held_out, encoder, console):
        read[stage.name] = source, held_out, encoder
        return params, True

    monkeypatch.setattr(runs.StageInFolder, "train", keep)
    assert run_recipe(recipe, quiet=True)
    assert read["texts"][0].text(1) == "two" and read["texts"][2].config.max_length == recipe.data.max_length
    assert read["texts"][1] is read["shared"][1] and read["shared"][2].config == recipe.data
    assert read["own"][0].fingerprint == open_source(dialogues).fingerprint != read["shared"][0].fingerprint
    assert read["own"][2].config == replace(own, max_interactions=3)
    for place in (0, 1):
        episode = read["preferences"][place].episode(0)
        assert any("chosen" in each for each in episode["interactions"])
    assert "chosen" not in read["own"][1].episode(0)["interactions"][0]
    assert len({id(encoder.report) for _, _, encoder in read.values()}) == 1
    assert recipe.held_out_preferences == replace(dialogues, split="iid", preferences=True)
    too_long = replace(recipe.stages["own"], data=replace(own, max_length=4096))
    with pytest.raises(ValueError, match=r"stages\.own\.data\.max_length = 4096 exceeds"):
        replace(recipe, stages={"own": too_long})


def test_a_curriculum_is_a_list_of_stage_runs(tmp_path):
    episode = json.dumps({"interactions": [{"query": "Hi", "answer": "Ho"}]}) + "\n"
    for name in ("steps-2", "steps-4", "steps-4-lr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(episode)
    (tmp_path / "steps-2" / "validation.jsonl").write_text(episode)
    run = StageRun(stage=MemoryAware(), updates=3, batch_size=1)
    data = DataConfig(max_length=40)
    found = curriculum_runs("memory", run, read_curriculum(tmp_path), data)
    assert list(found) == ["memory-2", "memory-4", "memory-4-lr"]
    recipe = replace(small_recipe(tmp_path / "run", {"first": MemoryAware()}), stages=found)
    reads = {name: recipe.data_of(run) for name, run in found.items()}
    assert [read.max_interactions for read in reads.values()] == [3, 5, 5]
    assert reads["memory-4-lr"].source == FileData(path=str(tmp_path / "steps-4-lr" / "train.jsonl"))
    assert reads["memory-2"].evaluation_source == FileData(path=str(tmp_path / "steps-2" / "validation.jsonl"))
    assert reads["memory-4"].evaluation_source == data.evaluation_source
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe


def test_recipes_of_before_are_understood_and_stages_of_other_models_are_not(tmp_path):
    recipe = small_recipe(tmp_path, {"mine": NextToken(), "memory": MemoryAware(window=2)})
    recipe = replace(recipe, stages=recipe.stages | {"mine": replace(recipe.stages["mine"], data=DialogueData(seed=3))})
    written = json.loads(json.dumps(to_json(recipe)))
    for run in written["stages"].values():
        run["source"] = run.pop("data")
    # Before a model could have a reward model, and before it could have a critic, these groups had no patterns.
    for late in (("reward_model", "reward_memory"), ("critic",)):
        for run in written["stages"].values():
            run["optimizer"]["groups"] = [pair for pair in run["optimizer"]["groups"] if pair[0] not in late]
        assert from_json(written) == recipe
    written["stages"]["mine"]["stage"]["type"] = "Yours"
    with pytest.raises(ValueError, match=r"recipe\.stages\.mine\.stage: unknown type 'Yours'.*not imported"):
        from_json(written)
    with pytest.raises(ValueError, match="conversation_sft, which does not train a ModelConfig"):
        small_recipe(tmp_path, {"stateless": ConversationSft()})
