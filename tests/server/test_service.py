"""A thousand random operations: a memory is always that of the last completed turn, bit for bit."""

import queue
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from loopback import PATIENT

from rxt_jax.server.engine import Engine
from rxt_jax.server.errors import ApiError
from rxt_jax.server.index import Commit, Index
from rxt_jax.server.memories import Memories, TierLimits
from rxt_jax.server.rows import MemoryState
from rxt_jax.server.service import BusyError, Committed, Leaves, Origin, Service, new_id
from rxt_jax.server.turns import Aborted, Made, Turn


def open_service(folder, programs):
    index = Index(folder / "index.sqlite")
    # So little room that memories come back from every tier.
    size = programs.initial_memory.nbytes / (1 << 20)
    limits = TierLimits(device_mib=2.5 * size, host_mib=2.5 * size)
    memories = Memories(folder / "m", index, fingerprint="f", shape=programs.memory_shape, limits=limits)
    engine = Engine(programs)
    engine.start()
    return Service(engine, memories, index, initial_memory=programs.initial_memory)


# Which of the conversations or responses there are. How many there are depends on the server's timing (a turn may
# be complete before it is aborted), and Hypothesis wants the same draws whatever the timing. So every rule may always
# run, draws a number, and does nothing where there is nothing to pick.
PICKS = st.integers(0, 2**16)


def picked(names, pick):
    names = sorted(names)
    return names[pick % len(names)] if names else None


class Begun:
    """A turn, and what it told. It is committed when `may_commit` is set, which it is from the beginning unless told
    otherwise; until then its conversation is busy, however fast its reply was."""

    def __init__(self, service, programs, origin, prompt, limit, *, held=False):
        self.id, self.events, self.ids = new_id("resp"), queue.Queue(), []
        self.prompt, self.may_commit = prompt, threading.Event()
        if not held:
            self.may_commit.set()
        turn = Turn(memory=service.memory(origin), prompt=prompt, first=(programs.special.answer,), limit=limit)
        self.running = service.begin(
            self.id,
            "",
            origin,
            turn,
            self.leaves,
            self.events.put,
        )

    def leaves(self, outcome):
        self.may_commit.wait()
        return Leaves(MemoryState(), {"n": len(outcome.ids)}, [])

    def next(self, *kinds):
        while True:
            event = self.events.get(timeout=PATIENT)
            if isinstance(event, Made):
                self.ids += event.ids
            if isinstance(event, (Committed, Aborted, *kinds)):
                return event


class ServiceMachine(RuleBasedStateMachine):
    programs = None

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.conversations, self.responses = {}, {}  # id → values of the memory it must have
        self.service = open_service(self.folder, self.programs)

    def reference(self, before, begun):
        (after,) = self.programs.write([[*begun.prompt, *begun.ids]], [before])
        return np.asarray(after)

    def prompt(self, word):
        special = self.programs.special
        return (special.bos, special.query, 20 + word)

    @rule()
    def create(self):
        self.conversations[self.service.create_conversation("", {})] = np.asarray(self.programs.initial_memory)

    @rule(pick=PICKS, word=st.integers(0, 20))
    def move(self, pick, word):
        conversation = picked(self.conversations, pick)
        if conversation is None:
            return
        origin = self.service.from_conversation(conversation, "")
        begun = Begun(self.service, self.programs, origin, self.prompt(word), 3)
        assert isinstance(begun.next(), Committed)
        after = self.reference(self.conversations[conversation], begun)
        self.conversations[conversation] = self.responses[begun.id] = after

    @rule(pick=PICKS, word=st.integers(0, 20))
    def branch(self, pick, word):
        parent = picked(self.responses, pick)
        if parent is None:
            return
        begun = Begun(self.service, self.programs, self.service.from_response(parent, ""), self.prompt(word), 3)
        assert isinstance(begun.next(), Committed)
        self.responses[begun.id] = self.reference(self.responses[parent], begun)

    @rule(pick=PICKS, later=st.booleans())
    def abort(self, pick, later):
        conversation = picked(self.conversations, pick)
        if conversation is None:
            return
        origin = self.service.from_conversation(conversation, "")
        begun = Begun(self.service, self.programs, origin, self.prompt(1), None, held=True)
        try:
            with pytest.raises(BusyError):
                Begun(self.service, self.programs, origin, self.prompt(2), 1)
        finally:
            begun.may_commit.set()
        if later:
            begun.next(Made)
        if begun.running.cancel():
            begun.next()
        elif isinstance(begun.next(), Committed):  # it was complete before it could be aborted
            after = self.reference(self.conversations[conversation], begun)
            self.conversations[conversation] = self.responses[begun.id] = after

    @rule(pick=PICKS)
    def delete(self, pick):
        response = picked(self.responses, pick)
        if response is None:
            return
        assert self.service.index.delete_response(response, "")
        del self.responses[response]
        self.service.memories.sweep()
        with pytest.raises(ApiError):
            self.service.from_response(response, "")

    @rule()
    def restart(self):
        self.service.engine.stop()  # nothing else is closed, as when the process is killed
        self.service = open_service(self.folder, self.programs)

    @invariant()
    def every_memory_is_that_of_its_turn(self):
        if not hasattr(self, "folder"):
            return
        origins = [(self.service.from_conversation(name, ""), values) for name, values in self.conversations.items()]
        origins += [(self.service.from_response(name, ""), values) for name, values in self.responses.items()]
        for origin, values in origins:
            np.testing.assert_array_equal(np.asarray(self.service.memory(origin)), values)
            if origin.memory is not None:
                content = self.service.memory_content(origin)
                np.testing.assert_array_equal(self.service.memories.parse(content, source="").values, values)

    def teardown(self):
        if hasattr(self, "folder"):
            self.service.close()
            shutil.rmtree(self.folder)


@pytest.mark.slow
def test_random_operations(programs):
    machine = type("Machine", (ServiceMachine,), {"programs": programs})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=50,
            deadline=None,
            phases=(Phase.generate,),
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_a_turn_that_another_replica_overtook_is_not_committed(programs, tmp_path, monkeypatch):
    service = open_service(tmp_path, programs)
    conversation = service.create_conversation("", {})
    save = service.memories.save

    def overtaken(name, memory, state):
        service.index.commit(Commit(owner="", time=0.0, memory="other", conversation=conversation))
        return save(name, memory, state)

    monkeypatch.setattr(service.memories, "save", overtaken)
    special = programs.special
    begun = Begun(service, programs, Origin(conversation=conversation), (special.bos, special.query), 2)
    event = begun.next()
    assert isinstance(event, Aborted) and event.reason == "conflict"
    assert service.index.conversation(conversation, "").memory == "other"
    assert service.index.response(begun.id, "") is None
    assert list((tmp_path / "m").iterdir()) == []
    service.close()


def test_a_memory_that_cannot_be_written_aborts_the_turn(programs, tmp_path, monkeypatch):
    service = open_service(tmp_path, programs)
    conversation = service.create_conversation("", {})
    special = programs.special

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(service.memories, "save", full)
        begun = Begun(service, programs, Origin(conversation=conversation), (special.bos, special.query), 2)
        event = begun.next()
    assert isinstance(event, Aborted) and "no space left" in event.message
    assert service.from_conversation(conversation, "").memory is None
    again = Begun(service, programs, Origin(conversation=conversation), (special.bos, special.query), 2)
    assert isinstance(again.next(), Committed)
    service.close()
