"""The engine: many turns in few slots answer as one session does; aborts, deadlines and failures leave nothing."""

import queue
import random
import threading
import time

import jax
import numpy as np
import pytest
from compilations import count_compilations
from held import Held
from loopback import PATIENT, until

from rxt_jax.model import SamplingConfig
from rxt_jax.server.engine import Engine
from rxt_jax.server.programs import Programs, model_fingerprint, row_counts
from rxt_jax.server.turns import Aborted, Ended, Made, QueueFullError, Started, Turn, Written
from rxt_jax.serving import ChatSession
from rxt_jax.serving.streaming import ReplyText

WORDS = ("my", "dog", "cat", "is", "called", "Rex", "Tom", "the", "key", "and")


@pytest.fixture
def engine(programs):
    engine = Engine(programs, queue_size=64)
    engine.start()
    yield engine
    engine.stop()


class Heard:
    """What a turn told."""

    def __init__(self):
        self.events: queue.Queue = queue.Queue()

    def __call__(self, event):
        self.events.put(event)

    def until(self, *kinds):
        """Wait for an event of a kind; give all up to it."""
        events = []
        while not events or not isinstance(events[-1], kinds):
            events.append(self.events.get(timeout=PATIENT))
        return events


def run(engine, turn):
    """Run a turn to its end: ids, whether complete, memory."""
    heard = Heard()
    engine.submit(turn, heard)
    events = heard.until(Written if turn.keeps_memory else Ended, Aborted)
    ids = [identity for event in events if isinstance(event, Made) for identity in event.ids]
    complete = next(event.complete for event in events if isinstance(event, Ended))
    return ids, complete, events[-1].memory if turn.keeps_memory else None


def text_of(ids, tokenizer):
    text = ReplyText(tokenizer)
    return "".join([*text.push(ids), *text.close()])


def long_turn(programs, chat_model, **options):
    """A turn whose reply does not end early."""
    special = chat_model[1].special
    return Turn(memory=programs.initial_memory, prompt=(special.bos, special.query), first=(special.answer,), **options)


def test_64_conversations_on_8_slots_answer_as_sessions_do(engine, programs, chat_model):
    model, tokenizer = chat_model
    draw = random.Random(0)
    sampled = SamplingConfig(temperature=0.8, top_k=20)

    def conversation(number):
        rules = random.Random(number)
        memory, turns = programs.initial_memory, []
        for turn in range(rules.randint(1, 4)):
            time.sleep(rules.random() * 0.05)
            query = " ".join(rules.choices(WORDS, k=rules.randint(1, 6)))
            prompt = tuple(ChatSession.prompt(session, query))
            settings = sampled if number % 3 == 2 and turn == 0 else SamplingConfig()
            limit = rules.choice((None, 3, 7))
            ids, complete, memory = run(
                engine,
                Turn(
                    memory=memory,
                    prompt=prompt,
                    first=(tokenizer.special.answer,),
                    sampling=settings,
                    limit=limit,
                    seed=number,
                ),
            )
            turns.append((query, settings, limit, ids, complete, memory))
        said[number] = turns

    session, said = ChatSession(model, tokenizer), {}
    threads = [threading.Thread(target=conversation, args=(number,)) for number in range(64)]
    draw.shuffle(threads)
    with count_compilations() as compiled:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not compiled
    assert engine.busy_slots == engine.queue_length == 0
    assert len(said) == 64
    ended = 0
    for number, turns in said.items():
        for index, (query, settings, limit, ids, complete, memory) in enumerate(turns):
            # Every session of the same settings runs the same programs: nothing compiles per conversation.
            if index == 0:
                alone = ChatSession(model, tokenizer, sampling=settings, seed=(number % 3 == 2 and number) or 0)
            alone.sampling, alone.reply_tokens = settings, limit
            assert "".join(alone.send(query)) == text_of(ids, tokenizer), (number, index)
            np.testing.assert_allclose(alone.memory, memory, atol=1e-5)
            ended += complete
    assert 0 < ended < sum(map(len, said.values()))


def test_compilations_of_other_threads_are_counted():
    with count_compilations() as compiled:
        thread = threading.Thread(target=lambda: jax.jit(lambda x: x * 3.125)(np.ones(7)))
        thread.start()
        thread.join()
    assert compiled


def test_a_preface_is_written_before_the_prompt_is_read(engine, programs, chat_model):
    model, tokenizer = chat_model
    session = ChatSession(model, tokenizer)
    session.answer("My cat is Tom.")
    row = (
        *session.prompt("My cat is Tom."),
        *run(
            engine,
            Turn(
                memory=programs.initial_memory,
                prompt=tuple(session.prompt("My cat is Tom.")),
                first=(tokenizer.special.answer,),
            ),
        )[0],
    )
    prompt = tuple(session.prompt("My cat?"))
    ids, _, memory = run(
        engine, Turn(memory=programs.initial_memory, prompt=prompt, preface=(row,), first=(tokenizer.special.answer,))
    )
    assert "".join(session.send("My cat?")) == text_of(ids, tokenizer)
    np.testing.assert_allclose(session.memory, memory, atol=1e-5)


def test_events_come_in_order_and_memory_is_left_alone_where_it_is_not_kept(engine, programs, chat_model):
    heard = Heard()
    engine.submit(long_turn(programs, chat_model, keeps_memory=False, limit=9), heard)
    kinds = [type(event) for event in heard.until(Ended)]
    assert kinds[0] is Started and kinds[-1] is Ended and set(kinds[1:-1]) == {Made}
    engine.stop()
    assert heard.events.empty()


def test_an_aborted_turn_writes_nothing_and_frees_its_slot(engine, programs, chat_model, monkeypatch):
    held, heard = Held(programs, monkeypatch), Heard()
    held.hold(chunks=1)
    ticket = engine.submit(long_turn(programs, chat_model), heard)
    heard.until(Made)
    assert engine.abort(ticket)
    assert heard.until(Aborted)[-1].reason == "cancelled"
    assert not engine.abort(ticket)
    until(lambda: engine.busy_slots == 0)
    held.release()
    engine.stop()
    assert heard.events.empty()


def test_what_has_ended_cannot_be_aborted(engine, programs, chat_model):
    heard = Heard()
    ticket = engine.submit(long_turn(programs, chat_model, limit=1), heard)
    heard.until(Ended)
    assert not engine.abort(ticket)
    heard.until(Written)


@pytest.mark.parametrize(("options", "reason"), [
    ({"queue_seconds": 0.0}, "queue_deadline"),
    ({"turn_seconds": 0.0}, "turn_deadline"),
])  # fmt: skip
def test_deadlines_abort(engine, programs, chat_model, options, reason):
    heard = Heard()
    engine.submit(long_turn(programs, chat_model, **options), heard)
    assert heard.until(Aborted)[-1].reason == reason
    assert run(engine, long_turn(programs, chat_model, limit=2))[0]


def test_a_full_queue_says_when_to_come_back(programs, chat_model):
    engine = Engine(programs, queue_size=2)  # not started: everything waits
    for _ in range(2):
        engine.submit(long_turn(programs, chat_model), Heard())
    with pytest.raises(QueueFullError) as refused:
        engine.submit(long_turn(programs, chat_model), Heard())
    assert refused.value.retry_seconds >= 1
    with pytest.raises(ValueError, match="1 to 24 tokens, got 25"):
        engine.submit(Turn(memory=programs.initial_memory, prompt=(2,) * 25), Heard())


def test_a_failure_of_the_device_aborts_what_runs_and_nothing_else(engine, programs, chat_model, monkeypatch):
    make = programs.make
    fails = iter([True])

    def failing(slots):
        if next(fails, False):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
        return make(slots)

    monkeypatch.setattr(programs, "make", failing)
    heard = Heard()
    engine.submit(long_turn(programs, chat_model), heard)
    assert heard.until(Aborted)[-1].reason == "failed"
    ids, _, memory = run(engine, long_turn(programs, chat_model, limit=3))
    assert len(ids) == 3 and np.isfinite(memory).all()


def test_stopping_lets_turns_finish_or_aborts_them(programs, chat_model):
    engine = Engine(programs)
    engine.start()
    heard = Heard()
    engine.submit(long_turn(programs, chat_model), heard)
    engine.stop(finish_seconds=PATIENT)
    assert isinstance(heard.until(Written, Aborted)[-1], Written)
    assert not engine.is_ready
    with pytest.raises(QueueFullError):
        engine.submit(long_turn(programs, chat_model), heard)
    engine = Engine(programs)
    waiting = Heard()
    engine.submit(long_turn(programs, chat_model), waiting)
    engine.stop()
    assert waiting.until(Aborted)[-1].reason == "shutdown"


def test_what_is_not_compiled_is_refused(programs):
    with pytest.raises(TypeError):
        programs._write[1](
            programs._params, (programs.initial_memory,), np.zeros((1, 7), np.int32), np.ones((1, 7), bool)
        )


def test_row_counts_end_at_the_most():
    assert [row_counts(most) for most in (1, 3, 4, 8, 64)] == [(1,), (1, 3), (1, 4), (1, 4, 8), (1, 4, 16, 64)]


def test_a_fingerprint_tells_models_apart(chat_model):
    from small import small_config, small_model

    model, tokenizer = chat_model
    same = small_model(model.config)
    other = small_model(model.config, seed=1)
    assert model_fingerprint(model, tokenizer) == model_fingerprint(same, tokenizer)
    assert len({model_fingerprint(each, tokenizer) for each in (model, other, small_model(small_config()))}) == 3


def test_programs_of_one_slot_serve_too(chat_model):
    model, tokenizer = chat_model
    programs = Programs(model, tokenizer.special, max_length=12, slots=1)
    engine = Engine(programs)
    engine.start()
    try:
        assert len(run(engine, long_turn(programs, chat_model))[0]) > 0
    finally:
        engine.stop()
