"""Conversations: turns, streaming, memory files, several sessions in one batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from flax import nnx
from small import call, convolving, dialogue_tokenizer, small_config, small_model, with_end

from rxt_jax.model import SamplingConfig, generate, make_rules
from rxt_jax.serving import ChatSession, answer_together, chat_session, streaming
from rxt_jax.serving.streaming import ReplyText

LENGTH = 24


@pytest.fixture(scope="module")
def chat_model():
    tokenizer = dialogue_tokenizer()
    return small_model(convolving(small_config(vocab_size=tokenizer.vocab_size, max_length=LENGTH))), tokenizer


@functools.partial(jax.jit, static_argnames=("graphdef", "end"))
def _generate(graphdef, params, ids, mask, rules, end):
    model, length = nnx.merge(graphdef, params), ids.shape[1]
    memory = model.initial_memory(1)
    return generate(model, memory, ids, mask, rules, max_new_tokens=length, end_id=end, width=length)


def generated(model, tokenizer, query, length=LENGTH):
    """Give the ids of a prompt and of its greedy reply, from a prefill at full width and one loop."""
    special = tokenizer.special
    prompt = [special.bos, special.query, *tokenizer.encode(query)]
    ids = jnp.array([prompt + [special.pad] * (length - len(prompt))])
    mask = jnp.arange(length)[None] < len(prompt)
    rules = make_rules(1, jax.random.key(0), first=(special.answer,))
    made = _generate(*nnx.split(model), ids, mask, rules, special.eos)
    return prompt, np.asarray(made.ids)[np.asarray(made.mask)].tolist()


def text_of(ids, tokenizer):
    text = ReplyText(tokenizer)
    return "".join([*text.push(ids), *text.close()])


def written(model, memory, row):
    """Write a row of ids into memory."""
    ids, mask = np.zeros((1, 40), np.int32), np.arange(40)[None] < len(row)
    ids[0, : len(row)] = row  # one width for all
    return call(model, "update_memory", memory, call(model, "encode", ids, mask), mask)


@pytest.mark.parametrize("ends", [False, True])
def test_a_turn_writes_query_and_answer_into_memory(chat_model, ends):
    model, tokenizer = chat_model
    prompt, made = generated(model, tokenizer, "My cat is Tom.")
    assert tokenizer.special.eos not in made and len(prompt) + len(made) == LENGTH  # it is cut
    if ends:
        tokenizer = with_end(tokenizer, next(token for token in made[3:] if token not in tokenizer.special.names))
        prompt, made = generated(model, tokenizer, "My cat is Tom.")
        assert made[-1] == tokenizer.special.eos and len(prompt) + len(made) < LENGTH
    session = ChatSession(model, tokenizer)
    start = session.memory
    chunks = list(session.send("My cat is Tom."))
    assert {chunk.block for chunk in chunks} <= {"think", "answer", "tool_call"}
    np.testing.assert_allclose(session.memory, written(model, start, prompt + made), atol=1e-5)
    # Neither the prompt alone nor a reply without its last token would pass for it.
    for other in (prompt, prompt + made[:-1]):
        assert float(jnp.abs(session.memory - written(model, start, other)).max()) > 1e-4
    assert session.memory_change().change.shape == (2, 4)
    session.reset()
    np.testing.assert_array_equal(session.memory, start)


@pytest.mark.parametrize(("mode", "block"), [("fast", "answer"), ("extended", "think")])
def test_thinking_modes_choose_the_first_block(chat_model, mode, block):
    session = ChatSession(*chat_model, mode=mode)
    assert next(iter(session.send("Hello."))).block == block


def test_a_streamed_reply_is_the_generated_one(chat_model):
    model, tokenizer = chat_model
    _, made = generated(model, tokenizer, "My cat?")
    assert "".join(ChatSession(model, tokenizer).send("My cat?")) == text_of(made, tokenizer)


def test_a_prompt_is_read_at_the_narrowest_width_and_answered_as_at_the_widest(chat_model, monkeypatch):
    model, tokenizer = chat_model
    widths, prefill = [], chat_session._prefill
    monkeypatch.setattr(chat_session, "_prefill", lambda *given: widths.append(given[3].shape[1]) or prefill(*given))
    for query in ("My cat?", "My cat is Tom and my dog is Rex and my horse is Max."):
        prompt, made = generated(model, tokenizer, query, length=40)
        session = ChatSession(model, tokenizer, max_length=40)
        start = session.memory
        assert "".join(session.send(query)) == text_of(made, tokenizer)
        np.testing.assert_allclose(session.memory, written(model, start, prompt + made), atol=1e-5)
        assert widths.pop() == (20 if len(prompt) <= 20 else 40)
    assert len(prompt) > 20


def test_the_first_text_is_not_waited_for_with_what_follows(chat_model, monkeypatch):
    """One token at a time until there is text: the first one only opens the answer."""
    most, extend = [], streaming._extend
    monkeypatch.setattr(streaming, "_extend", lambda *given: most.append(int(given[4])) or extend(*given))
    session = ChatSession(*chat_model, stream_tokens=3)
    reply = session.send("My cat?")
    next(reply)
    assert most and set(most) == {1}
    list(reply)
    assert most[-1] == 3 and most.count(1) < len(most) - 1


def test_an_interaction_is_written_at_the_narrowest_width(chat_model, monkeypatch):
    model, tokenizer = chat_model
    widths, write = [], chat_session._write
    monkeypatch.setattr(chat_session, "_write", lambda *given: widths.append(given[3].shape[1]) or write(*given))
    prompt = [tokenizer.special.bos, tokenizer.special.query, *tokenizer.encode("My cat?")]
    session = ChatSession(model, tokenizer, max_length=40, reply_tokens=20 - len(prompt))
    start = session.memory
    list(session.send("My cat?"))
    assert widths == [20]
    session.memory, session.reply_tokens = start, 25
    list(session.send("My cat?"))
    assert widths == [20, 40]


def test_an_abandoned_reply_writes_nothing(chat_model):
    session = ChatSession(*chat_model)
    start = session.memory
    reply = session.send("My cat?")
    next(reply)
    reply.close()
    np.testing.assert_array_equal(session.memory, start)


def test_auto_thinking_takes_the_likelier_block_once(chat_model):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer, mode="auto")
    special = tokenizer.special
    ids = jnp.array([[special.bos, special.query, *tokenizer.encode("Hello.")]])
    logits = call(model, "decode", ids, jnp.ones(ids.shape, bool), session.memory)[0, -1]
    expected = "answer" if logits[special.answer] >= logits[special.think] else "think"
    assert next(iter(session.send("Hello."))).block == expected


def test_memory_files_come_back_and_those_of_others_are_refused(chat_model, tmp_path):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer)
    session.answer("My cat is Tom.")
    session.export_memory(tmp_path / "memory.npz")
    other = ChatSession(model, tokenizer)
    other.import_memory(tmp_path / "memory.npz")
    np.testing.assert_array_equal(other.memory, session.memory)
    stranger = ChatSession(small_model(small_config(vocab_size=tokenizer.vocab_size, num_slots=5)), tokenizer)
    with pytest.raises(ValueError, match="another model"):
        stranger.import_memory(tmp_path / "memory.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no memory file"):
        other.import_memory(tmp_path / "broken.npz")
    whole = (tmp_path / "memory.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no memory file"):
        other.import_memory(tmp_path / "half.npz")
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        other.import_memory(tmp_path / "missing.npz")
    np.save(tmp_path / "array.npy", np.asarray(session.memory))
    with pytest.raises(ValueError, match="no memory file"):
        other.import_memory(tmp_path / "array.npy")
    with np.load(tmp_path / "memory.npz") as stored:
        memory, fingerprint = stored["memory"], stored["fingerprint"]
    for wrong in (memory[:, :, :1], np.full_like(memory, np.nan), memory.astype(np.int32), memory.astype(str)):
        np.savez(tmp_path / "wrong.npz", memory=wrong, fingerprint=fingerprint)
        with pytest.raises(ValueError, match=r"wrong\.npz is damaged: expected finite float32"):
            other.import_memory(tmp_path / "wrong.npz")
    np.testing.assert_array_equal(other.memory, session.memory)


def test_turns_that_cannot_be_are_refused(chat_model):
    session = ChatSession(*chat_model)
    with pytest.raises(ValueError, match=r"a turn is a query or the result.*got neither"):
        session.send()
    with pytest.raises(ValueError, match="one interaction holds 24"):
        session.send("word " * 40)
    with pytest.raises(TypeError, match="query must be a text, got 5"):
        session.answer(5)
    with pytest.raises(ValueError, match="mode must be one of fast, extended, auto, got 'fats'"):
        ChatSession(*chat_model, mode="fats")


def test_a_batch_of_sessions_answers_as_each_alone(chat_model):
    kinds = (
        {},
        {"sampling": SamplingConfig(temperature=1.5), "seed": 4, "reply_tokens": 5},
        {"sampling": SamplingConfig(temperature=1.2, top_k=20, top_p=0.9, min_p=0.01), "seed": 5, "mode": "extended"},
    )
    alone, together = ([ChatSession(*chat_model, **kind) for kind in kinds] for _ in range(2))
    for turn in (["My cat is Tom.", "Hello.", "I live in Rome."], ["My cat?", "Who am I?", "Where do I live?"]):
        replies = answer_together(together, turn)
        for session, reply, query in zip(alone, replies, turn, strict=True):
            expected = list(session.send(query))
            assert "".join(reply) == "".join(expected)
            assert {chunk.block for chunk in reply} == {chunk.block for chunk in expected}
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.memory, one.memory, atol=1e-5)
    with pytest.raises(ValueError, match="one query"):
        answer_together(together, ["Hello."])


def test_a_system_prompt_is_in_memory_before_the_first_turn(chat_model):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer)
    start, special = session.memory, tokenizer.special
    session.initialize("Be kind.", title="S")
    row = [special.bos, special.internal, *tokenizer.encode("S\n\nBe kind."), special.eos]
    np.testing.assert_allclose(session.memory, written(model, start, row), atol=1e-4)
    with pytest.raises(ValueError, match="system prompt has"):
        session.initialize("word " * 40)


def test_a_turn_may_choose_its_own_mode(chat_model):
    session = ChatSession(*chat_model)
    assert next(iter(session.send("Hello.", mode="extended"))).block == "think"
    with pytest.raises(ValueError, match="mode must be one of"):
        list(session.send("Hello.", mode="slow"))


def test_a_conversation_compiles_each_program_once_whatever_its_settings(chat_model):
    session = ChatSession(*chat_model)
    session.answer("Hello.")
    with count_compilations() as compiled:
        for turn in range(20):
            session.sampling = SamplingConfig(temperature=0.5 + turn / 10, top_k=turn) if turn % 3 else SamplingConfig()
            session.mode = ("fast", "extended", "auto")[turn % 3]
            session.reply_tokens = turn or None
            session.answer(f"My cat is number {turn}.")
        assert not compiled
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
        assert compiled  # the counter counts
