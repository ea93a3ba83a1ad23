"""What a model prefers is what its log-probabilities say, and a run says what its preferences cost."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import dialogue_tokenizer, preference_file, small_config, small_model, small_recipe

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import EvaluationConfig, evaluate_preferences
from rxt_jax.losses import sequence_log_probs
from rxt_jax.run import run_recipe
from rxt_jax.run_evaluation import before_preferences, evaluate_run
from rxt_jax.run_folder import load
from rxt_jax.stages import DirectMemoryPreference, MemoryAware
from rxt_jax.stages.precomputed_reference import precompute_reference
from rxt_jax.stages.stage import Reading

DATA = DataConfig(max_length=64, max_interactions=9)


@pytest.mark.slow
def test_accuracy_is_that_of_rows_scored_one_by_one():
    """Memory walked by hand, every answer decoded alone."""
    model = small_model(small_config(max_length=40, vocab_size=640))
    tokenizer, source = dialogue_tokenizer(), open_source(DialogueData(preferences=True))
    config = EvaluationConfig(episodes=4, batch_size=2, conditions=("memory", "zeroed"), tokens_per_call=64)
    found = evaluate_preferences(model, tokenizer, source, DATA, config).summary()
    encoder = RowEncoder(tokenizer, DATA)
    graphdef, params = nnx.split(model)

    @jax.jit
    def score(params, ids, mask, memory):
        return sequence_log_probs(nnx.merge(graphdef, params).decode(ids, jnp.ones_like(mask), memory), ids, mask)

    @jax.jit
    def write(params, ids, memory):
        model = nnx.merge(graphdef, params)
        mask = jnp.ones(ids.shape, bool)
        return model.update_memory(memory, model.encode(ids, mask), mask)

    expected = {"memory": [], "zeroed": []}
    for number in range(4):
        memory = model.initial_memory(1)
        for kept, wrong, _ in zip(*encoder.preference_episode(source.episode(number)), strict=True):
            for name, read in (("memory", memory), ("zeroed", jnp.zeros_like(memory))):
                totals = []
                for row in (kept, wrong) if wrong.valid else ():
                    scored = (np.arange(len(row.ids)) >= row.prompt_length)[None]
                    totals.append(float(score(params, jnp.array([row.ids]), scored, read).total[0]))
                expected[name] += [totals] if totals else []
            memory = write(params, jnp.array([kept.ids]), memory)
    assert found["pairs"] == len(expected["memory"]) > 2
    for name, totals in expected.items():
        one, totals = found["conditions"][name], np.array(totals)
        assert one["accuracy"] == pytest.approx(np.mean(totals[:, 0] > totals[:, 1]))
        assert one["log_probs_chosen"] == pytest.approx(totals[:, 0].mean(), rel=1e-4)
        assert one["log_probs_rejected"] == pytest.approx(totals[:, 1].mean(), rel=1e-4)


@pytest.mark.slow
def test_a_preference_run_is_measured_before_and_after(tmp_path):
    """With a precomputed reference, which a second run finds ready."""
    recipe = small_recipe(tmp_path / "run", {"first": MemoryAware()})
    stage = DirectMemoryPreference(reference="precomputed")
    recipe = replace(
        recipe,
        data=replace(recipe.data, source=preference_file(tmp_path / "pairs.jsonl", 12)),
        evaluation=EvaluationConfig(episodes=4, batch_size=2, splits=("iid",), max_new_tokens=4),
        stages={"preference": replace(recipe.stages["first"], stage=stage)},
    )
    assert before_preferences(recipe) is None
    assert before_preferences(replace(recipe, start_from="there")) == "there"
    assert run_recipe(recipe, quiet=True)
    file = tmp_path / "run" / "references" / "preference_train.npy"
    assert np.load(file).shape == (12, 4, 3) and np.all(np.load(file)[..., 0] <= 0.0) and np.load(file).any()
    found = evaluate_run(load(recipe.run_folder), part="before")
    assert any("pairs whose chosen answer is likelier" in str(table.title) for table in found.tables())
    assert found.folder == tmp_path / "run" / "evaluation" / "before"
    written = json.loads((found.folder / "preferences.json").read_text())
    assert found.preferences is not None and found.preferences.summary() == written
    assert written["pairs"] > 0 and set(written["conditions"]) == {"memory", "zeroed", "shuffled", "frozen"}


@pytest.mark.slow
def test_a_reference_is_computed_once_and_not_where_it_would_be_wrong(tmp_path, monkeypatch):
    source = open_source(preference_file(tmp_path / "pairs.jsonl", 3))
    encoder, stage = RowEncoder(dialogue_tokenizer(), DATA), DirectMemoryPreference(reference="precomputed")

    def reading(seed=0, source=source, **config):
        model = small_model(small_config(max_length=40, vocab_size=640, **config), seed=seed)
        return Reading(source, encoder, 2, 0, model=lambda: model, file=tmp_path / "reference.npy")

    first = precompute_reference(stage, reading())
    assert first.shape == (3, 9, 3)
    with monkeypatch.context() as patch:
        patch.setattr("rxt_jax.stages.precomputed_reference._compute", None)
        np.testing.assert_array_equal(precompute_reference(stage, reading()), first)
    assert not np.allclose(precompute_reference(stage, reading(seed=1)), first)
    with pytest.raises(ValueError, match="a source that ends"):
        precompute_reference(stage, reading(source=open_source(DialogueData(preferences=True))))
    with pytest.raises(ValueError, match="same every time"):
        precompute_reference(stage, reading(initial_memory="standard"))
