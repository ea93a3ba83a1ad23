"""Where memories are: on the device, in host memory, on disk.

Every memory is on disk before its turn is called complete, so what the upper tiers drop is lost to nobody. The least
recently used one moves down when a tier is over its bytes or its time; from the disk it is deleted.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rxt_jax.server.index import Index
from rxt_jax.server.memory_files import StoredMemory, parse_memory, write_memory
from rxt_jax.types import ShapedArray

__all__ = ["Memories", "MissingMemoryError", "TierLimits", "TierSize"]

_MIB = 1 << 20
_DAY = 86_400.0
_COMMIT_SECONDS = 600.0  # a file without a commit may be that of another process that is about to commit


class MissingMemoryError(KeyError):
    """A memory that was deleted, or has been unused for too long."""


@dataclass(frozen=True, kw_only=True)
class TierLimits:
    """How much each tier holds, and for how long after the last use."""

    device_mib: float = 256.0
    device_seconds: float = 600.0
    host_mib: float = 1024.0
    host_seconds: float = 3600.0
    disk_mib: float = 16_384.0
    disk_seconds: float = 30 * _DAY
    """Responses and conversations are forgotten after this time too."""
    owner_mib: float | None = None
    """What the memories of one API key may take on disk; beyond it the key's own least recently used ones go."""


@dataclass
class TierSize:
    """What a tier holds, and how many memories it has given up."""

    memories: int = 0
    bytes: int = 0
    evicted: int = 0


@dataclass
class _Tier:
    """Memories by name, the least recently used one first, with the times of their last use."""

    limit: float
    seconds: float
    held: OrderedDict[str, tuple[ShapedArray, float]] = field(default_factory=OrderedDict)
    evicted: int = 0

    def size(self) -> int:
        return sum(array.nbytes for array, _ in self.held.values())

    def overdue(self, now: float) -> list[tuple[str, ShapedArray, float]]:
        """Take out what the tier has to give up."""
        out, size = [], self.size()
        while self.held:
            name, (array, used) = next(iter(self.held.items()))
            if size <= self.limit and now - used <= self.seconds:
                break
            del self.held[name]
            size -= array.nbytes
            out.append((name, array, used))
        self.evicted += len(out)
        return out


class Memories:
    """The memories of a server by name. Methods can be called from any thread."""

    def __init__(
        self,
        folder: Path,
        index: Index,
        *,
        fingerprint: str,
        shape: tuple[int, ...],
        limits: TierLimits | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._folder, self._index, self._clock = folder, index, clock
        self.fingerprint, self.shape = fingerprint, shape
        self._limits = limits = limits or TierLimits()
        self._device = _Tier(limits.device_mib * _MIB, limits.device_seconds)
        self._host = _Tier(limits.host_mib * _MIB, limits.host_seconds)
        self._disk_evicted = 0
        # Uses that the index does not know yet: writing each to the disk at once would make its turn wait.
        self._touched: dict[str, float] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._drop_what_no_commit_names()

    def save(self, name: str, memory: ShapedArray, state: Mapping[str, Any]) -> int:
        """Write a memory to disk, before the commit that names it; return its bytes. Waits for the device."""
        file = self.file(name)
        write_memory(file, np.asarray(memory), self.fingerprint, state)
        with self._lock:
            self._device.held[name] = (memory, self._clock())
        return file.stat().st_size

    def load(self, name: str) -> ShapedArray:
        """Give a memory from the highest tier that has it; it counts as used.

        Raises a `MissingMemoryError`, or a `DamagedMemoryError` where the disk has lost it.
        """
        now = self._clock()
        with self._lock:
            for tier in (self._device, self._host):
                if name in tier.held:
                    array, _ = tier.held.pop(name)
                    tier.held[name] = (array, now)
                    break
            else:
                array = None
        if array is None:
            array = self.parse(self.content(name), source=f"memory {name}").values
            with self._lock:
                self._host.held[name] = (array, now)
        with self._lock:
            self._touched[name] = now
        return array

    def discard(self, name: str) -> None:
        """Delete a memory whose commit failed."""
        self._drop([name])

    def content(self, name: str) -> bytes:
        """Give the content of a memory's file."""
        try:
            return self.file(name).read_bytes()
        except FileNotFoundError:
            raise MissingMemoryError(name) from None

    def parse(self, content: bytes, *, source: str) -> StoredMemory:
        """Read a memory from the content of a file; see `parse_memory`."""
        return parse_memory(content, fingerprint=self.fingerprint, shape=self.shape, source=source)

    def file(self, name: str) -> Path:
        """Tell where a memory is on disk."""
        return self._folder / f"{name}.safetensors"

    def sweep(self, owner: str | None = None) -> None:
        """Bring every tier, and the disk's share of an owner, back to its limits."""
        now = self._clock()
        with self._lock:
            for name, array, used in self._device.overdue(now):
                self._host.held[name] = (np.asarray(array), used)
            # What came down is older than what was loaded: the order of use decides, not that of arrival.
            self._host.held = OrderedDict(sorted(self._host.held.items(), key=lambda item: item[1][1]))
            self._host.overdue(now)
            touched, self._touched = self._touched, {}
        self._index.touch(touched)
        self._index.drop_before(now - self._limits.disk_seconds)
        self._drop(self._index.unreferred())
        old = [each.name for each in self._index.least_recently_used() if now - each.used > self._limits.disk_seconds]
        self._drop(old, evicted=True)
        self._shrink(None, self._limits.disk_mib * _MIB)
        if owner is not None and self._limits.owner_mib is not None:
            self._shrink(owner, self._limits.owner_mib * _MIB)

    def sizes(self) -> dict[str, TierSize]:
        """Tell what every tier holds."""
        with self._lock:
            upper = {
                name: TierSize(len(tier.held), tier.size(), tier.evicted)
                for name, tier in (("device", self._device), ("host", self._host))
            }
        return {**upper, "disk": TierSize(len(self._index.names()), self._index.total_bytes(), self._disk_evicted)}

    def _shrink(self, owner: str | None, limit: float) -> None:
        """Delete the least recently used memories until the rest fits."""
        while (over := self._index.total_bytes(owner) - limit) > 0:
            names = []
            for record in self._index.least_recently_used(owner):
                if over <= 0:
                    break
                names.append(record.name)
                over -= record.bytes
            self._drop(names, evicted=True)

    def _drop(self, names: list[str], *, evicted: bool = False) -> None:
        if not names:
            return
        self._index.drop_memories(names)
        with self._lock:
            for name in names:
                self._device.held.pop(name, None)
                self._host.held.pop(name, None)
        for name in names:
            self.file(name).unlink(missing_ok=True)
        self._disk_evicted += len(names) if evicted else 0

    def _drop_what_no_commit_names(self) -> None:
        """Delete files of turns that were interrupted before their commit, and entries whose file is gone."""
        known: set[Any] = self._index.names()
        for file in [*self._folder.glob("*.safetensors"), *self._folder.glob(".*.part")]:
            interrupted = file.stem not in known or file.suffix == ".part"
            if interrupted and self._clock() - file.stat().st_mtime > _COMMIT_SECONDS:
                file.unlink(missing_ok=True)
        self._index.drop_memories([name for name in known if not self.file(name).is_file()])
