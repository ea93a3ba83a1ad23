"""The stateless baseline: rows of whole conversations, its training, its session, its evaluation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import call, convolving, dialogue_tokenizer, small_config, small_model, small_recipe

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.loader import ConversationBatches
from rxt_jax.data.rows import RowEncoder, join_rows
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import EvaluationConfig, evaluate_baseline
from rxt_jax.model import BaselineTransformer, presets
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import load
from rxt_jax.serving import HistorySession
from rxt_jax.stages import ConversationSft, MemoryAware

DATA = DataConfig(max_length=40, max_interactions=4, conversation_length=120)


def baseline(seed=0, **changes):
    tokenizer = dialogue_tokenizer()
    # What it keeps of the last tokens has to survive from turn to turn, as keys and values do.
    config = presets.baseline_like(convolving(small_config(vocab_size=tokenizer.vocab_size)), max_length=256)
    return small_model(replace(config, **changes), seed), tokenizer


def test_a_conversation_is_its_interactions_with_one_beginning_and_the_same_targets():
    encoder = RowEncoder(dialogue_tokenizer(), replace(DATA, max_length=96))
    rows = encoder.episode(open_source(DialogueData()).episode(0))
    ids, scored = join_rows(rows, 400)
    assert ids == [encoder.special.bos, *(identity for row in rows for identity in row.ids[1:])]
    answers = [identity for row in rows for identity in row.ids[row.prompt_length :]]
    assert [identity for identity, target in zip(ids, scored, strict=True) if target] == answers
    assert ids.count(encoder.special.bos) == 1 and ids.count(encoder.special.eos) == len(rows)


def test_what_does_not_fit_as_a_whole_is_left_out_and_counted():
    encoder = RowEncoder(dialogue_tokenizer(), replace(DATA, conversation_length=40, max_interactions=12))
    rows = encoder.episode(open_source(DialogueData()).episode(0))
    ids, _ = join_rows(rows, 40)
    lengths = np.cumsum([1] + [len(row.ids) - 1 for row in rows])
    assert len(ids) == max(length for length in lengths if length <= 40)
    already = encoder.report.episodes_shortened
    batch = ConversationBatches(open_source(DialogueData()), encoder, batch_size=4, seed=0)[0]
    assert batch.ids.shape == (4, 40) and encoder.report.episodes_shortened == already + 4


def test_the_loss_is_that_of_the_answers_given_the_conversation_before_them():
    model, tokenizer = baseline()
    batch = ConversationBatches(open_source(DialogueData()), RowEncoder(tokenizer, DATA), batch_size=3, seed=0)[0]
    batch = jax.tree.map(jnp.asarray, batch)
    stage = ConversationSft()
    graphdef, params = nnx.split(model)

    @jax.jit
    def objective(params, batch):
        return stage.objective(nnx.merge(graphdef, params), batch, None, stage.label_counts(batch))

    loss, metrics = objective(params, batch)
    logits = np.asarray(call(model, "decode", batch.ids, batch.token_mask), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_probs[:, :-1], batch.ids[:, 1:, None], axis=-1)[..., 0]
    scored = batch.loss_mask[:, 1:]
    np.testing.assert_allclose(loss, nll[scored].mean(), rtol=1e-5)
    assert float(metrics["answer/loss"][1]) == scored.sum()


@pytest.mark.parametrize("persistent", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_session_answers_as_the_whole_conversation_read_at_once(persistent):
    model, tokenizer = baseline()
    session = HistorySession(model, tokenizer, persistent_cache=persistent, reply_tokens=12)
    queries = ["My cat is called Tom.", "How are you?", "What is my cat's name?"]
    for query in queries:
        before = len(session.history)
        session.answer(query)
        made = session.history[before:]
        # Greedy: every token of the reply but its first is the likeliest after all that stands before it.
        length = len(session.history)
        ids = np.zeros((1, 96), np.int32)  # one width for all turns
        ids[0, :length] = session.history
        best = np.argmax(call(model, "decode", ids, np.arange(96)[None] < length)[0, :length], axis=-1)
        start = before + made.index(tokenizer.special.answer) + 1
        np.testing.assert_array_equal(session.history[start:], best[start - 1 : -1])


def test_a_conversation_that_is_full_and_a_mixed_up_recipe_are_refused(tmp_path):
    model, tokenizer = baseline(max_length=64)
    session = HistorySession(model, tokenizer)
    with pytest.raises(ValueError, match="Begin a new one"):
        for _ in range(64):
            session.answer("My cat is called Tom.")
    with pytest.raises(ValueError, match="does not train a ModelConfig"):
        small_recipe(tmp_path, {"sft": ConversationSft()})
    with pytest.raises(ValueError, match="does not train a BaselineConfig"):
        replace(small_recipe(tmp_path, {"smat": MemoryAware()}), model=model.config)


@pytest.mark.slow
def test_a_run_trains_loads_and_is_evaluated_like_any_other(tmp_path):
    recipe = small_recipe(tmp_path, {"memory_aware": MemoryAware()})
    run = replace(recipe.stages["memory_aware"], stage=ConversationSft())
    recipe = replace(
        recipe,
        model=presets.baseline_like(recipe.model, max_length=320),
        data=replace(recipe.data, max_length=96, conversation_length=320),
        stages={"conversation_sft": run},
    )
    assert run_recipe(recipe, quiet=True)
    loaded = load(tmp_path)
    assert isinstance(loaded.model, BaselineTransformer)
    result = evaluate_baseline(
        loaded.model,
        loaded.tokenizer,
        open_source(recipe.data.evaluation_source),
        recipe.data,
        EvaluationConfig(episodes=4, batch_size=4),
    )
    history, alone = result.conditions["history"], result.conditions["question_alone"]
    assert history.asked() == alone.asked() > 0
    assert history.tokens == alone.tokens > 0
    assert history.value_tokens == alone.value_tokens > 0


def test_the_baseline_of_a_model_has_about_its_parameters():
    from rxt_jax.cli.inspect import count_parameters

    for preset in (presets.toy, presets.rxt_alpha_micro):
        config = preset()
        parts = count_parameters(config)[0]
        own = sum(parts.values()) - parts["masked_language_head"]
        stateless = sum(count_parameters(presets.baseline_like(config, max_length=64))[0].values())
        assert abs(stateless - own) < 0.08 * own
