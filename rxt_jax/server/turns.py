"""A turn as the engine knows it: what is asked, what is told meanwhile, and where it stands."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rxt_jax.model.generation_rules import SamplingConfig
from rxt_jax.types import Array, ShapedArray

__all__ = [
    "AbortReason",
    "Aborted",
    "Ended",
    "Event",
    "Listener",
    "Made",
    "QueueFullError",
    "Started",
    "Ticket",
    "Turn",
    "Written",
]

AbortReason = Literal["cancelled", "queue_deadline", "turn_deadline", "shutdown", "failed", "conflict"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One interaction of a conversation: a memory goes in, a reply and the next memory come out.

    Nothing else ties it to a conversation, so branches and retries are turns with the same `memory`.
    """

    memory: ShapedArray
    """`[L 1 S D]`, on the device or on the host."""
    prompt: tuple[int, ...]
    preface: tuple[tuple[int, ...], ...] = ()
    """Interactions to write into memory before the prompt is read: instructions, or a history that is replayed."""
    first: tuple[int, ...] = ()
    """The ids among which the first token of the reply is chosen."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    limit: int | None = None
    """Tokens of the reply at most; None: until the interaction is full."""
    seed: int = 0
    keeps_memory: bool = True
    """Whether memory is written behind the reply."""
    queue_seconds: float = 60.0
    """How long it may wait for a slot."""
    turn_seconds: float = 300.0
    """How long it may take from then on."""


class Started(NamedTuple):
    """The prompt is being read."""


class Made(NamedTuple):
    """The reply goes on with these ids."""

    ids: list[int]


class Ended(NamedTuple):
    """The reply is over; False: it was cut, by its limit or because the interaction is full."""

    complete: bool


class Written(NamedTuple):
    """The memory after the turn, `[L 1 S D]`; the device may still be at it."""

    memory: Array


class Aborted(NamedTuple):
    """The turn ended before its reply did. Nothing was written."""

    reason: AbortReason
    message: str


Event = Started | Made | Ended | Written | Aborted
"""In this order: Started, Made as often as needed, Ended, and Written where memory is kept; or Aborted, instead of
whatever has not come yet."""

Listener = Callable[[Event], None]
"""Called in the engine's thread: it hands the event on and returns at once."""


class QueueFullError(Exception):
    """No more turns can wait; `retry_seconds` is when to try again."""

    def __init__(self, retry_seconds: float):
        super().__init__(f"all slots are busy and the queue is full; try again in {retry_seconds:.0f} s")
        self.retry_seconds = retry_seconds


class Ticket:
    """A turn in the engine. Only the engine changes it."""

    def __init__(self, turn: Turn, listener: Listener):
        self.turn, self._listener = turn, listener
        self.memory: ShapedArray = turn.memory
        self.unwritten = list(turn.preface)
        self.made: list[int] = []
        self.slot: int | None = None
        self.submitted = time.monotonic()
        self.deadline = self.submitted + turn.queue_seconds
        self.over = False
        """The reply is complete or given up: too late to abort it."""

    def tell(self, event: Event) -> None:
        """Tell the listener."""
        self._listener(event)
