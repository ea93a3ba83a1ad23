"""Talking to the model of a run from Python, whichever kind of model it is."""

import json
from dataclasses import replace

import pytest
from flax import nnx
from small import dialogue_tokenizer, small_config, small_model

from rxt_jax.data.config import FileData
from rxt_jax.model import BaselineTransformer, SamplingConfig, presets
from rxt_jax.run_folder import load, write_run
from rxt_jax.run_inspection import trace_memory
from rxt_jax.run_session import SAMPLE_CONVERSATION, open_session, write_sample
from rxt_jax.serving import ChatSession, HistorySession


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """An untrained model as a run."""
    tokenizer = dialogue_tokenizer()
    folder = tmp_path_factory.mktemp("sessions") / "run"
    write_run(folder, small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=40)), tokenizer)
    return folder


def test_a_folder_and_a_loaded_run_open_the_session_of_their_model(run_folder):
    loaded = load(run_folder)
    options = {"sampling": SamplingConfig(temperature=1.0), "seed": 3}
    sessions = [open_session(run, **options) for run in (run_folder, loaded)]
    sessions.append(ChatSession(loaded.model, loaded.tokenizer, max_length=40, **options))
    assert len({session.answer("My cat is Tom.") for session in sessions}) == 1
    baseline = BaselineTransformer(presets.baseline_like(small_config(), max_length=99), rngs=nnx.Rngs(0))
    assert isinstance(open_session(loaded._replace(model=baseline), seed=1), HistorySession)


def test_a_sample_is_kept_where_the_model_learnt_small_talk(run_folder):
    loaded = load(run_folder)
    text = write_sample(loaded)
    assert text is not None and text.count("you    ") == text.count("model  ") == len(SAMPLE_CONVERSATION)
    assert (run_folder / "samples" / "conversation.txt").read_text() == text + "\n"
    turns = json.loads((run_folder / "samples" / "conversation.json").read_text())
    assert [turn["query"] for turn in turns] == list(SAMPLE_CONVERSATION)
    trace = trace_memory(loaded, {"interactions": turns[:2]}, experiments=["erase"])
    effects = [-turn.effects["erase"].everything for turn in trace.turns]
    assert [turn["memory_nats"] for turn in turns[:2]] == pytest.approx(effects, abs=1e-3)
    data = replace(loaded.recipe.data, source=FileData(path="theirs.jsonl"))
    recipe = replace(loaded.recipe, data=data, folder="nowhere")
    assert write_sample(loaded._replace(recipe=recipe)) is None
