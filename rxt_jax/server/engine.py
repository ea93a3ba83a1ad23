"""The engine: one thread that owns JAX and serves turns from a pool of slots.

A turn waits, has its preface written, is read into a slot, makes its reply a few tokens at a time together with
whatever else runs, leaves its slot, and has its interaction written behind the last token. Turns enter and leave
between two chunks of tokens. The memory that a turn reads and the one that it leaves are values: the engine knows no
conversation.
"""

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Iterable

from rxt_jax.server.programs import Programs
from rxt_jax.server.turns import (
    Aborted,
    AbortReason,
    Ended,
    Listener,
    Made,
    QueueFullError,
    Started,
    Ticket,
    Turn,
    Written,
)

__all__ = ["Engine"]

_LOG = logging.getLogger("rxt_jax.server")
_MESSAGES: dict[AbortReason, str] = {
    "cancelled": "the turn was cancelled",
    "queue_deadline": "the turn waited for a slot until its deadline",
    "turn_deadline": "the turn took longer than its deadline allows",
    "shutdown": "the server is stopping",
    "failed": "the model failed",
    "conflict": "the conversation has moved on",
}


class Engine:
    """Turns go in by `submit`, what becomes of them comes out by their listeners.

    `queue_size` turns may wait. All methods can be called from any thread.
    """

    def __init__(self, programs: Programs, *, queue_size: int = 64):
        self._programs, self._queue_size = programs, queue_size
        self._changed = threading.Condition()
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._running: dict[int, Ticket] = {}
        self._finished: list[tuple[Ticket, tuple[int, ...]]] = []  # with the interactions to be written
        self._thread = threading.Thread(target=self._run, name="rxt-engine", daemon=True)
        self._accepts, self._stops, self._ready = True, False, threading.Event()
        self._turn_seconds = 1.0  # moving average, for Retry-After
        self.failure: BaseException | None = None
        """What ended the thread, if anything did."""

    def start(self, *, wait: bool = True) -> None:
        """Start the thread, which compiles first; with `wait` return when it is ready."""
        self._thread.start()
        while wait and not self._ready.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the engine could not start") from self.failure

    @property
    def is_ready(self) -> bool:
        """Whether everything is compiled and turns are served."""
        return self._ready.is_set() and self._thread.is_alive() and self._accepts

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def slots(self) -> int:
        """How many turns can run at once."""
        return self._programs.slots

    @property
    def busy_slots(self) -> int:
        """How many turns run."""
        return len(self._running)

    @property
    def queue_length(self) -> int:
        """How many turns wait for a slot."""
        return len(self._waiting)

    def submit(self, turn: Turn, listener: Listener) -> Ticket:
        """Let a turn wait for a slot. A full queue is a `QueueFullError`, a prompt that does not fit a `ValueError`."""
        longest = self._programs.max_length
        for ids in (turn.prompt, *turn.preface):
            if not 0 < len(ids) <= longest:
                raise ValueError(f"an interaction has 1 to {longest} tokens, got {len(ids)}")
        ticket = Ticket(turn, listener)
        with self._changed:
            if not self._accepts:
                raise QueueFullError(5.0)
            if len(self._waiting) >= self._queue_size:
                raise QueueFullError(max(1.0, self._turn_seconds * len(self._waiting) / self.slots))
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def abort(self, ticket: Ticket, reason: AbortReason = "cancelled") -> bool:
        """Give a turn up: it writes nothing, and its slot is free at the next chunk.

        Returns False, and changes nothing, where the reply is complete already.
        """
        with self._changed:
            if ticket.over:
                return False
            ticket.over = True
            self._changed.notify()
        ticket.tell(Aborted(reason, _MESSAGES[reason]))
        return True

    def stop(self, finish_seconds: float = 0.0) -> None:
        """Take no more turns, let those that run finish for so long, abort the rest, and end the thread."""
        with self._changed:
            self._accepts = False
            self._changed.notify()
        end = time.monotonic() + finish_seconds
        while time.monotonic() < end and (self._waiting or self._running or self._finished) and self.is_alive:
            time.sleep(0.01)
        for ticket in (*self._waiting, *self._running.values()):
            self.abort(ticket, "shutdown")
        with self._changed:
            self._stops = True
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    # --- what follows runs in the engine's thread

    def _run(self) -> None:
        try:
            self._programs.compile()
            self._ready.set()
            while self._await_work():
                try:
                    self._step()
                except Exception:  # whatever the device raises: these turns are lost, the next ones may fare better
                    _LOG.exception("the engine failed; all running turns are aborted")
                    self._fail()
        except BaseException as error:
            self.failure = error
            self._accepts = False
            _LOG.exception("the engine stopped")
            self._abort_all((*self._waiting, *self._running.values()), "failed")
            raise

    def _await_work(self) -> bool:
        """Sleep until there is something to do; False when the engine is to stop."""
        with self._changed:
            while not (self._waiting or self._running or self._finished):
                if self._stops:
                    return False
                self._changed.wait()
        return True

    def _step(self) -> None:
        self._drop_what_is_over()
        self._write()
        self._admit()
        self._make()

    def _drop_what_is_over(self) -> None:
        """Free the slots of aborted turns, and abort those whose time is up."""
        now = time.monotonic()
        for ticket in (*self._waiting, *self._running.values()):
            if now >= ticket.deadline:
                self.abort(ticket, "queue_deadline" if ticket.slot is None else "turn_deadline")
        with self._changed:
            self._waiting = collections.deque(ticket for ticket in self._waiting if not ticket.over)
        self._running = {slot: ticket for slot, ticket in self._running.items() if not ticket.over}

    def _write(self) -> None:
        """Write one batch: turns that have ended first, then prefaces of those that are next in the queue."""
        rows = self._programs.write_rows
        ended, self._finished = self._finished[:rows], self._finished[rows:]
        next_ones = [each for each in list(self._waiting)[: self.slots] if each.unwritten][: rows - len(ended)]
        if not ended and not next_ones:
            return
        tickets = [*(ticket for ticket, _ in ended), *next_ones]
        interactions = [*(ids for _, ids in ended), *(ticket.unwritten[0] for ticket in next_ones)]
        try:
            memories = self._programs.write(interactions, [ticket.memory for ticket in tickets])
        except Exception:  # whatever the device raises: whoever waits for these writes is told, and the caller as well
            for ticket, _ in ended:
                ticket.tell(Aborted("failed", _MESSAGES["failed"]))
            self._abort_all(next_ones, "failed")
            raise
        for ticket, memory in zip(tickets, memories, strict=True):
            ticket.memory = memory
        for ticket in next_ones:
            del ticket.unwritten[0]
        for ticket, _ in ended:
            ticket.tell(Written(ticket.memory))  # type: ignore[arg-type]

    def _admit(self) -> None:
        """Read the prompts of turns that can begin into free slots, in the order in which they came."""
        free = [slot for slot in range(self.slots) if slot not in self._running]
        with self._changed:
            begin = [each for each in self._waiting if not each.unwritten][: min(len(free), self._programs.prompt_rows)]
            for ticket in begin:
                self._waiting.remove(ticket)
        if not begin:
            return
        now = time.monotonic()
        for ticket, slot in zip(begin, free, strict=False):
            ticket.slot, ticket.deadline = slot, now + ticket.turn.turn_seconds
            self._running[slot] = ticket
            ticket.tell(Started())
        turns = [ticket.turn for ticket in begin]
        self._programs.read(
            [turn.prompt for turn in turns],
            [ticket.memory for ticket in begin],
            [(turn.sampling, turn.limit, turn.first, turn.seed) for turn in turns],
            free[: len(begin)],
        )

    def _make(self) -> None:
        if not self._running:
            return
        slots = sorted(self._running)
        for slot, ids, goes_on in zip(slots, *self._programs.make(slots), strict=True):
            ticket = self._running[slot]
            if ticket.over:
                continue
            ticket.made += ids
            if ids:
                ticket.tell(Made(ids))
            if not goes_on:
                self._end(ticket)

    def _end(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket.over:  # aborted a moment ago
                return
            ticket.over = True
        del self._running[ticket.slot]  # type: ignore[arg-type]
        turn = ticket.turn
        self._turn_seconds += 0.1 * (time.monotonic() - ticket.submitted - self._turn_seconds)
        if turn.keeps_memory:
            self._finished.append((ticket, (*turn.prompt, *ticket.made)))
        ticket.tell(Ended(self._programs.special.eos in ticket.made))

    def _fail(self) -> None:
        """Give up what runs and begin with an empty pool: the old one may have been donated to the call that failed."""
        self._abort_all((*self._running.values(),), "failed")
        for ticket, _ in self._finished:
            ticket.tell(Aborted("failed", _MESSAGES["failed"]))
        self._running, self._finished = {}, []
        self._programs.reset()

    def _abort_all(self, tickets: Iterable[Ticket], reason: AbortReason) -> None:
        for ticket in tickets:
            with contextlib.suppress(Exception):
                self.abort(ticket, reason)
