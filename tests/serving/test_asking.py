"""Looking into a conversation without changing it: questions, memory, and programs compiled beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from small import call, dialogue_tokenizer, small_config, small_model, with_end
from test_chat_session import generated

from rxt_jax.serving import ChatSession, ask
from rxt_jax.serving.memory_change import measure_change
from rxt_jax.serving.streaming import confidence


@pytest.fixture(scope="module")
def chat_model():
    tokenizer = dialogue_tokenizer()
    return small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=24)), tokenizer


def test_questions_are_answered_as_in_a_turn_and_nothing_is_remembered(chat_model):
    session = ChatSession(*chat_model)
    session.answer("My cat is Tom.")
    memory, previous = session.memory, session.previous_memory
    questions = ["My cat?", "Who am I?", "Where do I live?"] * 6
    answers = ask(session, questions)
    assert session.memory is memory
    assert session.previous_memory is previous
    for question, answer in zip(questions[:3], answers, strict=False):
        twin = ChatSession(*chat_model)
        twin.memory = memory
        assert answer == twin.answer(question).strip()
        np.testing.assert_allclose(answer.confidence, twin.confidence, rtol=1e-5)
    assert answers[:3] == answers[3:6]
    assert ask(session, []) == []
    with pytest.raises(ValueError, match="one interaction holds 24"):
        ask(session, ["My cat?", "word " * 40])


def test_confidence_is_the_mean_probability_of_the_tokens_of_a_reply(chat_model):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer)
    (answer,) = ask(session, ["My cat?"])
    prompt, made = generated(model, tokenizer, "My cat?")
    ids = jnp.array([prompt + made])
    hidden, _ = call(model, "decode_hidden", ids, jnp.ones(ids.shape, bool), session.memory)
    log_probs = jax.nn.log_softmax(call(model, "logits", hidden)[0], axis=-1)
    drawn = [float(log_probs[place - 1, ids[0, place]]) for place in range(len(prompt) + 1, ids.shape[1])]
    assert len(drawn) == len(made) - 1 > 3
    np.testing.assert_allclose(answer.confidence, np.exp(np.mean(drawn)), rtol=1e-4)
    assert 0.0 < answer.confidence < 1.0


def test_a_reply_of_which_nothing_was_drawn_is_sure():
    assert confidence([]) == confidence([-3.0]) == 1.0
    np.testing.assert_allclose(confidence([-9.0, np.log(0.5), np.log(0.125)]), 0.25)


def test_after_preparing_a_turn_compiles_nothing(chat_model):
    session = ChatSession(*chat_model, mode="fast", stream_tokens=3)
    start = session.memory
    session.prepare()
    assert session.memory is start
    with count_compilations() as compiled:
        session.answer("My cat is Tom.")
        assert not [message for message in compiled if "jit(_" in message]
    alone = ChatSession(*chat_model, mode="fast", stream_tokens=3)
    alone.answer("My cat is Tom.")
    np.testing.assert_array_equal(session.memory, alone.memory)


def test_long_prompts_are_refused_with_what_to_do(chat_model):
    session = ChatSession(*chat_model)
    start = session.memory
    with pytest.raises(ValueError, match=r"that is \d+ tokens long, .* 24 with its answer. Send it in \d+ parts; not"):
        session.send("word " * 40)
    assert session.memory is start


def test_a_reply_says_whether_it_ended_by_itself(chat_model):
    model, tokenizer = chat_model

    def complete(tokenizer, **options):
        reply = ChatSession(model, tokenizer, **options).send("My cat is Tom.")
        while True:
            try:
                next(reply)
            except StopIteration as end:
                return end.value

    assert complete(tokenizer, reply_tokens=1) is False
    assert complete(tokenizer) is False  # the interaction is full
    _, made = generated(model, tokenizer, "My cat is Tom.")
    said = next(token for token in made[3:] if token not in tokenizer.special.names)
    assert complete(with_end(tokenizer, said)) is True


def test_memory_is_measured_by_slot():
    empty = jnp.ones((2, 1, 3, 4))
    before = empty.at[1, 0, 2].set(3.0)
    memory = before.at[0, 0, 1].set(jnp.array([0.0, 0.0, 2.0, 0.0]))
    measured = measure_change(memory, before, empty)
    np.testing.assert_allclose(measured.level, [[1, 1, 1], [1, 1, 3]])
    changed = np.sqrt((1 + 1 + 1 + 1) / 4)
    np.testing.assert_allclose(measured.change, [[0, changed, 0], [0, 0, 0]])
    np.testing.assert_allclose(measured.distance, [[0, changed, 0], [0, 0, 2]])
    # Slot 1 of layer 0 is at 60 degrees to the others, which are alike; in layer 1 all point one way.
    np.testing.assert_allclose(measured.likeness, [(1 + 0.5 + 0.5) / 3, 1], atol=1e-6)
    one = measure_change(*[jnp.ones((1, 1, 1, 4))] * 3)
    np.testing.assert_allclose(one.likeness, [0.0], atol=1e-6)
