"""Memory files, the index and the tiers: nothing is lost, nothing foreign or damaged is taken for a memory."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from rxt_jax.server.index import Commit, ConversationMovedError, Index
from rxt_jax.server.memories import Memories, MissingMemoryError, TierLimits
from rxt_jax.server.memory_files import DamagedMemoryError, ForeignMemoryError, parse_memory, write_memory

SHAPE = (2, 1, 4, 8)
MIB = 1 << 20


def values(seed):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def parse(content, fingerprint="mine", shape=SHAPE):
    return parse_memory(content, fingerprint=fingerprint, shape=shape, source="m")


def test_a_memory_file_comes_back_bit_for_bit(tmp_path):
    memory = values(0)
    memory[0, 0, 0, :4] = [np.inf, -0.0, np.nan, 1e-40]
    write_memory(tmp_path / "m", memory, "mine", {"tokens": 3})
    back = parse((tmp_path / "m").read_bytes())
    assert back.values.tobytes() == memory.tobytes() and back.state == {"tokens": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_what_is_not_this_models_memory_is_refused(tmp_path):
    write_memory(tmp_path / "m", values(0), "mine", {})
    content = (tmp_path / "m").read_bytes()
    with pytest.raises(ForeignMemoryError, match="another model"):
        parse(content, fingerprint="other")
    with pytest.raises(ForeignMemoryError, match="shape"):
        parse(content, shape=(2, 1, 4, 9))
    flipped = bytearray(content)
    flipped[-5] ^= 1
    other = content.replace(b'"state":"{}"', b'"state":"[]"')
    assert other != content
    for damaged in (other, b"", b"\xff" * 40, content[:-1], content[:20], bytes(flipped), b"null", content[8:]):
        with pytest.raises(DamagedMemoryError):
            parse(damaged)


def memories_of(folder, clock=lambda: 0.0, **limits):
    folder.mkdir(parents=True, exist_ok=True)
    index = Index(folder / "index.sqlite")
    tiers = Memories(folder / "m", index, fingerprint="mine", shape=SHAPE, limits=TierLimits(**limits), clock=clock)
    return index, tiers


def keep(index, tiers, name, memory, owner="", time=0.0, response=None):
    size = tiers.save(name, memory, {})
    index.commit(
        Commit(owner=owner, time=time, memory=name, bytes=size, response=response or f"r{name}", body={}, input=[])
    )
    return size


def test_memories_move_down_and_come_back(tmp_path):
    size = values(0).nbytes / MIB
    index, tiers = memories_of(tmp_path, device_mib=2.5 * size, host_mib=2.5 * size)
    for number in range(6):
        keep(index, tiers, f"m{number}", values(number))
        tiers.sweep()
    sizes = tiers.sizes()
    assert [sizes[name].memories for name in ("device", "host", "disk")] == [2, 2, 6]
    assert [sizes[name].evicted for name in ("device", "host", "disk")] == [4, 2, 0]
    for number in range(6):
        np.testing.assert_array_equal(tiers.load(f"m{number}"), values(number))
    tiers.sweep()
    assert tiers.sizes()["host"].memories == 2


def test_the_disk_forgets_what_was_not_used_for_longest(tmp_path):
    now = [0.0]
    one = keep(*memories_of(tmp_path / "probe"), "m", values(0)) / MIB
    index, tiers = memories_of(tmp_path, lambda: now[0], disk_mib=3.5 * one, disk_seconds=100, host_mib=0, device_mib=0)
    for number in range(3):
        now[0] = float(number)
        keep(index, tiers, f"m{number}", values(number), time=now[0])
    now[0] = 5.0
    tiers.load("m0")
    keep(index, tiers, "m3", values(3), time=5.0)
    tiers.sweep()
    assert index.names() == {"m0", "m2", "m3"}
    with pytest.raises(MissingMemoryError):
        tiers.load("m1")
    assert index.response("rm1", "").memory == "m1" and index.memory("m1") is None
    now[0] = 103.0
    tiers.sweep()
    assert index.names() == {"m0", "m3"} and index.response("rm2", "") is None
    now[0] = 206.0
    tiers.sweep()
    assert index.names() == set() and index.response("rm0", "") is None
    assert list((tmp_path / "m").iterdir()) == []


def test_an_owner_over_its_share_loses_its_own(tmp_path):
    one = keep(*memories_of(tmp_path / "probe"), "m", values(0)) / MIB
    index, tiers = memories_of(tmp_path, owner_mib=2.5 * one)
    for number in range(4):
        keep(index, tiers, f"a{number}", values(number), owner="a", time=float(number))
    keep(index, tiers, "b0", values(9), owner="b")
    tiers.sweep("a")
    assert index.names() == {"a2", "a3", "b0"}


def test_what_nothing_names_is_deleted(tmp_path):
    index, tiers = memories_of(tmp_path)
    keep(index, tiers, "m0", values(0))
    index.delete_response("rm0", "another")
    tiers.sweep()
    assert index.names() == {"m0"}
    index.delete_response("rm0", "")
    tiers.sweep()
    assert index.names() == set() and not tiers.file("m0").exists()


def test_a_conversation_that_moved_on_refuses_a_late_turn(tmp_path):
    index, _ = memories_of(tmp_path)
    index.create_conversation("c", "a", 0.0, {})

    def move(name, before, owner="a"):
        index.commit(Commit(owner=owner, time=1.0, memory=name, conversation="c", conversation_memory=before))

    move("m1", None)
    for late in (lambda: move("m2", None), lambda: move("m2", "m0"), lambda: move("m2", "m1", owner="b")):
        with pytest.raises(ConversationMovedError):
            late()
    assert index.names() == {"m1"} and index.conversation("c", "a").memory == "m1"
    assert index.conversation("c", "b") is None
    move("m2", "m1")
    assert index.conversation("c", "a").memory == "m2"


class TierMachine(RuleBasedStateMachine):
    """Any order of operations, with restarts that close nothing: a memory is what was saved, or gone for a reason."""

    names = Bundle("names")

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.now, self.model, self.used, self.number = 0.0, {}, {}, 0
        self.restart()

    @rule()
    def restart(self):
        self.uses = {}  # those that the index has not noted are lost
        size = values(0).nbytes / MIB
        limits = {"device_mib": 1.5 * size, "host_mib": 2.5 * size, "device_seconds": 5, "host_seconds": 10}
        self.index, self.tiers = memories_of(self.folder, lambda: self.now, disk_seconds=50.0, **limits)

    @rule(target=names)
    def save(self):
        self.number += 1
        name = f"m{self.number}"
        keep(self.index, self.tiers, name, values(self.number), time=self.now)
        self.model[name], self.used[name] = values(self.number), self.now
        return name

    @rule()
    def be_killed_before_the_commit(self):
        self.number += 1
        self.tiers.save(f"m{self.number}", values(self.number), {})
        self.restart()

    @rule(name=names)
    def load(self, name):
        if name in self.model:
            np.testing.assert_array_equal(self.tiers.load(name), self.model[name])
            self.uses[name] = self.now
        elif not self.tiers.file(name).exists():
            with pytest.raises(MissingMemoryError):
                self.tiers.load(name)

    @rule(name=names)
    def delete(self, name):
        assert self.index.delete_response(f"r{name}", "") == (name in self.model)
        self.model.pop(name, None)
        self.sweep()

    @rule(name=names)
    def damage(self, name):
        if name in self.model:
            content = bytearray(self.tiers.file(name).read_bytes())
            content[-1] ^= 255
            self.tiers.file(name).write_bytes(bytes(content))
            self.restart()
            with pytest.raises(DamagedMemoryError):
                self.tiers.load(name)
            self.delete(name)

    @rule(seconds=st.sampled_from([1.0, 7.0, 30.0]))
    def wait(self, seconds):
        self.now += seconds
        self.sweep()

    def sweep(self):
        self.tiers.sweep()
        self.used |= self.uses
        # A response is forgotten 50 s after its last use, and with it the memory that nothing else names.
        self.model = {name: memory for name, memory in self.model.items() if self.created(name)}

    def created(self, name):
        return self.index.response(f"r{name}", "") is not None and self.now - self.used[name] <= 50.0

    @invariant()
    def everything_is_where_it_belongs(self):
        if hasattr(self, "index"):
            assert set(self.model) <= self.index.names()
            sizes = self.tiers.sizes()
            assert sizes["disk"].memories == len(self.index.names())

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


TestTiers = TierMachine.TestCase
TestTiers.settings = settings(
    max_examples=20, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
