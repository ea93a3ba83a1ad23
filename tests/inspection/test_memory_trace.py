"""A trace changes no number, its parts add up, and its experiments are what evaluations measure."""

import json
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import call, dialogue_tokenizer, random_batch, random_memory, small_config, small_model

from rxt_jax.data.config import DataConfig
from rxt_jax.inspection import memory_page, trace_conversation
from rxt_jax.inspection.experiments import measure_effects
from rxt_jax.losses.token_log_probs import next_token_log_probs
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.ops.attention import AttentionMask, attend, attention_weights
from rxt_jax.serving import ChatSession

LENGTH = 24
SAID = ["My cat is Tom.", "Who am I?", "My cat?"]
GIVEN = {"interactions": [{"query": "My cat is Tom.", "answer": "Noted."}, {"query": "My cat?", "answer": "Tom."}]}


@pytest.fixture(scope="module")
def chat_model():
    tokenizer = dialogue_tokenizer()
    return small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=LENGTH)), tokenizer


@pytest.fixture(scope="module")
def trace(chat_model):
    other = {"interactions": [{"query": "I like tea.", "answer": "Fine."}, {"query": "And milk.", "answer": "Fine."}]}
    return trace_conversation(*chat_model, GIVEN, DataConfig(max_length=LENGTH), other=other)


def turn_log_prob(model, memory, trace, number):
    """Score the answer of a traced turn from its texts, without any of the inspector's code."""
    turn = trace.turns[number]
    tokenizer = dialogue_tokenizer()
    special = tokenizer.special
    given = GIVEN["interactions"][number]
    ids = [special.bos, special.query, *tokenizer.encode(given["query"]), special.answer]
    start = len(ids)
    ids += [*tokenizer.encode(given["answer"]), special.eos]
    assert len(turn.tokens) == len(ids)
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(ids)] = ids
    places = np.arange(LENGTH)[None]
    logits = call(model, "decode", padded, places < len(ids), memory)
    log_probs = jax.nn.log_softmax(logits[0, start - 1 : len(ids) - 1])
    return float(jnp.sum(log_probs[jnp.arange(len(ids) - start), jnp.array(ids[start:])]))


@pytest.mark.parametrize(("query_heads", "kv_heads"), [(4, 2), (2, 4), (2, 2)])
def test_attention_weights_are_those_that_attend_joins_values_with(query_heads, kv_heads):
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (2, 5, query_heads, 8))
    key, value = (jax.random.normal(each, (2, 6, kv_heads, 8)) for each in keys[1:])
    mask = AttentionMask(keys=jnp.array([[True] * 4 + [False] * 2, [False] * 6]))
    weights = attention_weights(query, key, mask)
    heads = max(query_heads, kv_heads)
    joined = jnp.einsum("bnts,bsnh->btnh", weights, jnp.repeat(value, heads // kv_heads, axis=2))
    np.testing.assert_allclose(joined, attend(query, key, value, mask), atol=1e-6)
    np.testing.assert_allclose(weights[0].sum(-1), 1.0, atol=1e-6)
    assert not weights[1].any() and not weights[0, :, :, 4:].any()


def test_watching_gives_the_hidden_states_of_reading():
    model = small_model()
    ids, mask = random_batch()
    memory = random_memory(model.config, len(ids))
    hidden, weights = call(model, "watch_reading", ids, mask, memory)
    np.testing.assert_array_equal(hidden, call(model, "decode_hidden", ids, mask, memory)[0])
    assert weights.shape == (2, *ids.shape, 4)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_a_gate_that_is_watched_is_the_one_that_joins_old_and_new(activation):
    from rxt_jax.nn.residual_gates import ResidualGate

    gate = ResidualGate(4, 8, ResidualGateConfig(kind="learned_slot", activation=activation), rngs=nnx.Rngs(0))
    old, new = jax.random.normal(jax.random.key(1), (2, 3, 4, 8))
    opening, joined = gate.opening(old, new), gate(old, new)
    most = 1.0 if activation == "tanh" else 0.0
    np.testing.assert_allclose(joined, (most + opening) * new + (1 - opening) * old, atol=1e-6)
    assert ResidualGate(4, 8, ResidualGateConfig(kind="sum"), rngs=nnx.Rngs(0)).opening(old, new) is None


def test_a_trace_walks_as_a_chat_does(chat_model):
    trace = trace_conversation(
        *chat_model, {"interactions": [{"query": each} for each in SAID]}, DataConfig(max_length=LENGTH), experiments=()
    )
    session = ChatSession(*chat_model)
    assert len(trace.turns) == 3
    for number, (query, turn) in enumerate(zip(SAID, trace.turns, strict=True)):
        np.testing.assert_allclose(trace.memories[number], session.memory[:, 0], atol=1e-5)
        assert turn.answer == session.answer(query).strip() and turn.own_answer
        # What `/memory` shows of this turn is what the trace has.
        for mine, shown in zip(turn.change, session.memory_change(), strict=True):
            np.testing.assert_allclose(mine, shown, atol=1e-4)
        assert not turn.effects
    np.testing.assert_allclose(trace.memories[3], session.memory[:, 0], atol=1e-5)


def test_log_probabilities_are_the_models(chat_model, trace):
    for number, turn in enumerate(trace.turns):
        memory = jnp.asarray(trace.memories[number])[:, None]
        assert turn.log_prob == pytest.approx(turn_log_prob(chat_model[0], memory, trace, number), abs=1e-4)
        assert turn.reading.shape == (len(turn.answer_places), 2, 4)
        np.testing.assert_allclose(turn.reading.sum(-1), 1.0, atol=1e-5)
        np.testing.assert_allclose(turn.writing.sum(-1), 1.0, atol=1e-5)


def test_experiments_replace_what_they_say(chat_model, trace):
    model, own = chat_model[0], trace.turns[1]
    memory = jnp.asarray(trace.memories[1])[:, None]
    true = turn_log_prob(model, memory, trace, 1)
    zeroed = turn_log_prob(model, jnp.zeros_like(memory), trace, 1)
    assert own.effects["erase"].everything == pytest.approx(zeroed - true, abs=1e-4)
    assert abs(zeroed - true) > 1e-3
    one = turn_log_prob(model, memory.at[1, :, 2].set(0.0), trace, 1)
    assert own.effects["erase"].slots[1, 2] == pytest.approx(one - true, abs=1e-4)
    layer = turn_log_prob(model, memory.at[1].set(0.0), trace, 1)
    assert own.effects["erase"].layers[1] == pytest.approx(layer - true, abs=1e-4)
    # After one interaction memory is what it was frozen at.
    assert not own.effects["freeze"].slots.any()
    assert abs(own.effects["swap"].everything) > 1e-4
    # Before the first interaction all conversations are alike.
    assert not trace.turns[0].effects["swap"].slots.any()


def test_a_slot_that_alone_decides_is_found():
    """The replacement is another one in a single slot, so that one is worth everything and the others nothing."""
    model = small_model()
    ids, mask = (each[:1] for each in random_batch())
    memory = random_memory(model.config, 1)
    scored = mask & (jnp.arange(ids.shape[1]) > 1)
    graphdef, params = nnx.split(model)
    same = memory.at[0, 0, 3].add(1.0)
    effects = measure_effects(graphdef, params, memory, same, ids, mask, scored, tokens_per_call=24)
    assert abs(effects.slots[0, 3]) > 1e-4 and effects.slots[0, 3] == pytest.approx(effects.everything, abs=1e-5)
    others = np.delete(effects.slots.reshape(-1), 3)
    np.testing.assert_allclose(others, 0.0, atol=1e-5)
    hidden, _ = call(model, "decode_hidden", ids, mask, same)
    changed = next_token_log_probs(model.logits, hidden, ids, scored).log_probs.sum()
    hidden, _ = call(model, "decode_hidden", ids, mask, memory)
    assert effects.everything == pytest.approx(
        float(changed - next_token_log_probs(model.logits, hidden, ids, scored).log_probs.sum()), abs=1e-4
    )


class _Links(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "action", "data", "poster")]


def test_the_page_holds_the_numbers_and_fetches_nothing(trace):
    page = trace.html()
    links = _Links()
    links.feed(page)
    assert not links.fetched and "script" in links.tags and "link" not in links.tags
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page)
    data = json.loads(re.search(r'id="trace">(.*?)</script>', page, re.S).group(1))
    for shown, turn in zip(data["turns"], trace.turns, strict=True):
        np.testing.assert_allclose(shown["maps"]["erase"], turn.effects["erase"].slots, atol=6e-5)
        np.testing.assert_allclose(shown["maps"]["gate"], turn.gate, atol=6e-5)
        np.testing.assert_allclose(shown["everything"]["swap"], turn.effects["swap"].everything, atol=6e-5)
    assert trace._repr_html_().startswith("<iframe")


def test_a_page_leaves_details_out_and_says_so(trace, monkeypatch):
    whole = len(trace.html())
    monkeypatch.setattr(memory_page, "MOST_BYTES", whole - 100)
    page = trace.html()
    assert len(page) < whole and "Left out, to stay small: which tokens a slot read when it was written" in page
    monkeypatch.setattr(memory_page, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="does not fit a page of 100 bytes"):
        trace.html()


def test_texts_cannot_end_the_script(trace):
    from dataclasses import replace

    text = "</script><script>alert(1)</script>"
    evil = replace(trace, turns=(replace(trace.turns[0], query=text, tokens=(text,) * 9),))
    assert evil.html().count("<script") == trace.html().count("<script")


def test_an_interaction_without_room_is_named(chat_model):
    episode = {"interactions": [{"query": "My cat?"}, {"query": "word " * 40}]}
    with pytest.raises(ValueError, match=r"interaction 1 has .* tokens, but one interaction holds 24"):
        trace_conversation(*chat_model, episode, DataConfig(max_length=LENGTH), experiments=())
    with pytest.raises(ValueError, match="experiments must be among erase, freeze, swap, got 'burn'"):
        trace_conversation(*chat_model, GIVEN, DataConfig(max_length=LENGTH), experiments=("burn",))
