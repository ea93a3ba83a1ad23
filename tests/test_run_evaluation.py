"""Evaluating a run from Python: what is measured, where it is written, whatever way the run is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from small import dialogue_tokenizer, small_config, small_model, small_recipe

from rxt_jax.data.config import DataConfig, FileData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import EvaluationConfig, evaluate_split
from rxt_jax.model import BaselineTransformer, presets
from rxt_jax.recipe import StageRun
from rxt_jax.run_evaluation import before_preferences, evaluate_run
from rxt_jax.run_folder import load, write_run
from rxt_jax.stages import DirectMemoryPreference, MemoryAware

EVALUATION = EvaluationConfig(episodes=4, batch_size=2, max_new_tokens=4, conditions=("memory", "zeroed"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """An untrained model as a run."""
    tokenizer = dialogue_tokenizer()
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    write_run(folder, small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=40)), tokenizer)
    return folder


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    recall = [{"slot": "cat", "value": "Tom", "distance": 1}]
    turns = [{"query": "My cat is Tom.", "answer": "Noted."}, {"query": "My cat?", "answer": "Tom.", "recall": recall}]
    file = tmp_path_factory.mktemp("data") / "cats.jsonl"
    file.write_text("".join(json.dumps({"id": n, "interactions": turns}) + "\n" for n in range(4)))
    return file


def test_a_run_its_stage_and_a_loaded_run_give_the_same_figures_in_places_of_their_own(run_folder, episodes, tmp_path):
    loaded = load(run_folder)
    source = open_source(FileData(path=str(episodes)))
    direct = evaluate_split(loaded.model, loaded.tokenizer, source, loaded.recipe.data, EVALUATION).summary()
    cases = (
        (run_folder, {}, run_folder / "evaluation" / "cats"),
        (run_folder / "stages" / "imported", {}, run_folder / "evaluation" / "imported" / "cats"),
        (loaded, {"part": "here"}, run_folder / "evaluation" / "here"),
        (str(run_folder), {"output": tmp_path / "there"}, tmp_path / "there" / "evaluation" / "cats"),
    )
    for run, options, place in cases:
        found = evaluate_run(run, data=episodes, evaluation=EVALUATION, **options)
        assert found.folder == place and found.preferences is None
        assert found.report.summary() == {"held_out": direct}
        assert json.loads((place / "recall.json").read_text())["held_out"]["episodes"] == 4
    assert len(found.tables()) == 2


def test_without_data_the_splits_of_the_run_are_measured(run_folder, tmp_path):
    loaded = load(run_folder)
    evaluation = replace(EVALUATION, episodes=2, splits=("iid", "unseen_values"))
    loaded = loaded._replace(recipe=replace(loaded.recipe, evaluation=evaluation))
    found = evaluate_run(loaded, output=tmp_path)
    assert list(found.report.summary()) == ["iid", "unseen_values"]
    assert found.folder == tmp_path / "evaluation"


def test_typed_conversations_are_for_models_with_memory(run_folder, tmp_path):
    turns = [{"user": "My cat is Tom."}, {"user": "My cat?", "expect": ["Tom"]}]
    file = tmp_path / "typed.jsonl"
    file.write_text(json.dumps({"id": "a", "habit": "pets", "turns": turns}))
    found = evaluate_run(run_folder, data=file, output=tmp_path)
    assert found.report.summary()["questions"] == 1 and (found.folder / "transcript.txt").is_file()
    config = presets.baseline_like(small_config(), max_length=99)
    stateless = load(run_folder)._replace(model=BaselineTransformer(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"typed\.jsonl measures what memory holds; run is the stateless baseline"):
        evaluate_run(stateless, data=file, output=tmp_path)


def test_rows_of_preferences_are_those_of_their_stage(run_folder, tmp_path):
    """Data of one's own say how rows are made; a source alone is read as the recipe says."""
    recipe = small_recipe(tmp_path / "run", {"first": MemoryAware(), "second": DirectMemoryPreference()})
    assert before_preferences(recipe) == str(tmp_path / "run" / "stages" / "first")
    run = StageRun(stage=DirectMemoryPreference(), updates=1, batch_size=2)
    own = DataConfig(max_length=24, text_length=24)
    source = FileData(path="pairs.jsonl", kind="preference_episode")
    assert recipe.data_of(replace(run, data=own)) == own
    assert recipe.data_of(replace(run, data=source)) == replace(recipe.data, source=source)
    assert recipe.data_of(run) == recipe.data
    pairs = [{"query": "Cat?", "accepted": {"answer": "Tom."}, "rejected": {"answer": "Ann."}}]
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"interactions": pairs}) + "\n")
    data = replace(recipe.data, preference_evaluation_source=replace(source, path=str(tmp_path / "pairs.jsonl")))
    evaluation = replace(EVALUATION, episodes=1, splits=("iid",), conditions=("memory",))
    recipe = replace(recipe, data=data, evaluation=evaluation)
    loaded = load(run_folder)
    found = evaluate_run(loaded._replace(recipe=recipe))
    assert found.preferences is not None and found.preferences.pairs == 1 and len(found.tables()) == 3
    written = json.loads((found.folder / "preferences.json").read_text())
    assert np.isfinite(written["conditions"]["memory"]["log_probs_chosen"])
