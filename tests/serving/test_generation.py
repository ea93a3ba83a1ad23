"""Generation and conversations."""

import contextlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dialogue_tokenizer, random_batch, random_memory, small_config, small_model

from rxt_jax.serving import ChatSession, SamplingConfig, answer_together, generate
from rxt_jax.serving.sampling import filter_logits, sample

GREEDY = SamplingConfig()


def run(model, memory, ids, mask, *, new=5, end=-1, sampling=GREEDY, seed=0):
    graphdef, params = nnx.split(model)

    @jax.jit
    def go(params, memory, ids, mask):
        return generate(
            nnx.merge(graphdef, params),
            memory,
            ids,
            mask,
            jax.random.key(seed),
            max_new_tokens=new,
            end_id=end,
            sampling=sampling,
        )

    return go(params, memory, ids, mask)


def test_greedy_generation_is_the_argmax_of_the_whole_sequence_again_and_again():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    made = run(model, memory, ids, mask)
    graphdef, params = nnx.split(model)
    decode = jax.jit(lambda params, *given: nnx.merge(graphdef, params).decode(*given))
    rows, lengths = np.arange(len(ids)), np.sum(mask, axis=1)
    sequence = np.pad(ids, ((0, 0), (0, 5)))
    for step in range(5):
        real = np.arange(sequence.shape[1]) < (lengths + step)[:, None]
        logits = decode(params, jnp.asarray(sequence), jnp.asarray(real), memory)
        best = np.argmax(logits[rows, lengths + step - 1], axis=-1)
        np.testing.assert_array_equal(best, made.ids[:, step])
        sequence[rows, lengths + step] = best


def test_rows_end_on_their_own_and_what_follows_is_padding():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    free = run(model, memory, ids, mask, new=6)
    end = int(free.ids[0, 2])
    made = run(model, memory, ids, mask, new=6, end=end)
    first = int(jnp.argmax(free.ids[0] == end))
    np.testing.assert_array_equal(made.mask[0], jnp.arange(6) <= first)
    np.testing.assert_array_equal(made.ids[0, first + 1 :], 0)
    for row in range(len(ids)):
        kept = np.asarray(made.mask[row])
        np.testing.assert_array_equal(made.ids[row][kept], free.ids[row][kept])


def test_what_stands_in_the_padding_and_how_much_there_is_changes_nothing():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    plain = run(model, memory, ids, mask)
    wider = run(model, memory, jnp.pad(ids, ((0, 0), (0, 3)), constant_values=7), jnp.pad(mask, ((0, 0), (0, 3))))
    np.testing.assert_array_equal(run(model, memory, jnp.where(mask, ids, 9), mask).ids, plain.ids)
    np.testing.assert_array_equal(wider.ids, plain.ids)


def test_one_key_gives_one_text_and_another_key_another():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    warm = SamplingConfig(temperature=2.0)
    first, again, other = (run(model, memory, ids, mask, sampling=warm, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.ids, again.ids)
    assert (np.asarray(first.ids) != np.asarray(other.ids)).any()


def test_a_batch_generates_what_its_rows_generate():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    together = run(model, memory, ids, mask)
    for row in range(len(ids)):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(run(model, memory[:, one], ids[one], mask[one]).ids, together.ids[one])


def test_log_probabilities_are_those_of_the_sampled_distribution():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    sampling = SamplingConfig(temperature=0.7, top_k=5)
    made = run(model, memory, ids, mask, new=1, sampling=sampling)
    for row, length in enumerate(jnp.sum(mask, axis=1).tolist()):
        sequence = ids[row : row + 1, :length]
        logits = model.decode(sequence, jnp.ones(sequence.shape, bool), memory[:, row : row + 1])[:, -1]
        expected = jax.nn.log_softmax(filter_logits(logits, sampling))[0, made.ids[row, 0]]
        np.testing.assert_allclose(made.log_probs[row, 0], expected, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.1, 1.0), st.floats(0.2, 3.0))
def test_filters_keep_the_best_token_and_no_more_than_asked(seed, top_k, top_p, temperature):
    logits = jax.random.normal(jax.random.key(seed), (3, 8)) * 2
    kept = np.isfinite(filter_logits(logits, SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)))
    assert kept[np.arange(3), np.argmax(logits, axis=-1)].all()
    assert (kept.sum(-1) <= top_k).all()
    probabilities = np.sort(np.asarray(jax.nn.softmax(logits / temperature, axis=-1)), axis=-1)[:, ::-1]
    needed = (np.cumsum(probabilities, axis=-1) - probabilities <= top_p + 1e-5).sum(-1)
    assert (kept.sum(-1) <= needed).all()


def test_sampling_follows_the_distribution():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: sample(logits, SamplingConfig(temperature=1.0), key)[0][0])(keys)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_greedy_takes_the_best_token_of_what_the_filter_leaves():
    logits = jax.random.normal(jax.random.key(3), (4, 9))
    ids, log_probs = sample(logits, GREEDY, jax.random.key(0))
    filtered = filter_logits(logits, GREEDY)
    np.testing.assert_array_equal(ids, np.argmax(filtered, axis=-1))
    np.testing.assert_allclose(log_probs, jnp.max(jax.nn.log_softmax(filtered), axis=-1), atol=1e-6)


@pytest.mark.parametrize(
    "field",
    [{"temperature": -1.0}, {"temperature": 0.0}, {"min_p": 1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}],
)
def test_impossible_sampling_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        SamplingConfig(**field)


@pytest.fixture(scope="module")
def chat_model():
    tokenizer = dialogue_tokenizer()
    return small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=24)), tokenizer


def test_a_turn_writes_query_and_answer_into_memory(chat_model):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer)
    start = session.memory
    chunks = list(session.send("My cat is Tom."))
    special = tokenizer.special
    made = tokenizer.encode("".join(chunk for chunk in chunks))
    assert {chunk.block for chunk in chunks} <= {"think", "answer", "tool_call"}
    assert float(jnp.abs(session.memory - start).max()) > 1e-4
    if len(made) + 4 + len(tokenizer.encode("My cat is Tom.")) < 24:
        row = [special.bos, special.query, *tokenizer.encode("My cat is Tom."), special.answer, *made, special.eos]
        ids = jnp.array([row])
        mask = jnp.ones(ids.shape, bool)
        expected = model.update_memory(start, model.encode(ids, mask), mask)
        np.testing.assert_allclose(session.memory, expected, atol=1e-4)
    assert session.memory_change().change.shape == (2, 4)
    session.reset()
    np.testing.assert_array_equal(session.memory, start)


@pytest.mark.parametrize(("mode", "block"), [("fast", "answer"), ("extended", "think")])
def test_thinking_modes_choose_the_first_block(chat_model, mode, block):
    session = ChatSession(*chat_model, mode=mode)
    assert next(iter(session.send("Hello."))).block == block


def test_a_streamed_reply_is_the_generated_one(chat_model):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer)
    start, special = session.memory, tokenizer.special
    prompt = [special.bos, special.query, *tokenizer.encode("My cat?"), special.answer]
    ids = jnp.array([prompt])
    made = run(model, start, ids, jnp.ones(ids.shape, bool), new=24 - len(prompt), end=special.eos)
    streamed = "".join(chunk for chunk in session.send("My cat?"))
    assert tokenizer.decode(made.ids[0].tolist()).split() == streamed.split()


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
    logits = model.decode(ids, jnp.ones(ids.shape, bool), session.memory)[0, -1]
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


def test_turns_that_cannot_be_are_refused(chat_model):
    session = ChatSession(*chat_model)
    with pytest.raises(ValueError, match="either a query or the result"):
        session.send()
    with pytest.raises(ValueError, match="one interaction holds 24"):
        session.send("word " * 40)


def test_a_batch_of_sessions_answers_as_each_alone(chat_model):
    alone, together = ([ChatSession(*chat_model) for _ in range(3)] for _ in range(2))
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
    ids = jnp.array([[special.bos, special.internal, *tokenizer.encode("S\n\nBe kind."), special.eos]])
    mask = jnp.ones(ids.shape, bool)
    np.testing.assert_allclose(session.memory, model.update_memory(start, model.encode(ids, mask), mask), atol=1e-4)
    with pytest.raises(ValueError, match="system prompt has"):
        session.initialize("word " * 40)


def test_a_turn_may_choose_its_own_mode(chat_model):
    session = ChatSession(*chat_model)
    assert next(iter(session.send("Hello.", mode="extended"))).block == "think"
    with pytest.raises(ValueError, match="mode must be one of"):
        list(session.send("Hello.", mode="slow"))


def test_a_conversation_compiles_each_program_once(chat_model):
    session = ChatSession(*chat_model)
    session.answer("Hello.")
    with jax.log_compiles(), count_compilations() as compiled:
        for turn in range(20):
            session.answer(f"My cat is number {turn}.")
        assert not compiled
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
        assert compiled  # the counter counts


@contextlib.contextmanager
def count_compilations():
    """Collect the messages of programs that are compiled meanwhile."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def test_raw_log_probabilities_are_those_of_the_model():
    model = small_model()
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    made = run(model, memory, ids, mask, new=4, sampling=SamplingConfig(temperature=0.5, top_k=3))
    lengths = np.sum(mask, axis=1)
    for row, length in enumerate(lengths.tolist()):
        sequence = jnp.concatenate([jnp.asarray(ids)[row, :length], made.ids[row]])[None]
        logits = model.decode(sequence, jnp.ones(sequence.shape, bool), memory[:, row : row + 1])[0]
        log_probs = jax.nn.log_softmax(logits)[np.arange(length - 1, length + 3), made.ids[row]]
        np.testing.assert_allclose(made.raw_log_probs[row], log_probs, atol=1e-4)


def test_min_p_drops_what_is_far_below_the_best():
    logits = jnp.log(jnp.array([[0.6, 0.31, 0.05, 0.04]]))
    kept = jnp.isfinite(filter_logits(logits, SamplingConfig(temperature=1.0, min_p=0.5)))
    np.testing.assert_array_equal(kept, [[True, True, False, False]])
