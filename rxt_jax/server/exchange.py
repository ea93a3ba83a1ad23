"""Between the engine's thread and the event loop: events of a turn, clients that leave, streams of events."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request

from rxt_jax.server.errors import ApiError
from rxt_jax.server.service import BusyError, Committed, RunningTurn
from rxt_jax.server.turns import Aborted, AbortReason, Event, QueueFullError

__all__ = ["EventStream", "Exchange", "abort_error", "begin_turn", "busy_error", "run_to_end"]

_BUSY_SECONDS = 0.25
"""How long a turn waits for another one of its conversation: a client that hung up and comes back at once would else
meet the turn that it has just given up."""

_ABORTS: dict[AbortReason, tuple[int, str]] = {
    "cancelled": (409, "cancelled"),
    "queue_deadline": (503, "queue_deadline"),
    "turn_deadline": (504, "turn_deadline"),
    "shutdown": (503, "shutting_down"),
    "failed": (500, "server_error"),
    "conflict": (409, "conversation_busy"),  # another replica was faster
}


class Exchange:
    """The events of one turn, as they come."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Committed] = asyncio.Queue()

    def hear(self, event: Event | Committed) -> None:
        """Take an event from any thread. After the loop has closed nobody listens."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Event | Committed]:
        """Give the events up to the last one, `Committed` or `Aborted`."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Committed | Aborted):
                return


async def begin_turn(begin: Callable[[], RunningTurn]) -> RunningTurn:
    """Begin a turn in a thread, because its memory may have to come from the disk.

    Raises an `ApiError` where the conversation stays busy or the queue is full.
    """
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        beginning = asyncio.get_running_loop().run_in_executor(None, begin)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_cancel_begun)
            raise
        except BusyError:
            if time.monotonic() >= end:
                raise busy_error() from None
            await asyncio.sleep(0.01)
        except QueueFullError as error:
            headers = {"Retry-After": f"{error.retry_seconds:.0f}"}
            raise ApiError(429, str(error), code="queue_full", headers=headers) from None


def busy_error() -> ApiError:
    """Say that a conversation takes one turn at a time."""
    message = "another turn of this conversation is running; wait for it, or cancel it"
    return ApiError(409, message, code="conversation_busy", param="conversation")


def _cancel_begun(beginning: "asyncio.Future[RunningTurn]") -> None:
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().cancel()


def abort_error(event: Aborted) -> ApiError:
    """Say why a turn was aborted."""
    status, code = _ABORTS[event.reason]
    headers = {"Retry-After": "1"} if status == 503 else {}
    return ApiError(status, f"{event.message}; nothing was written", code=code, headers=headers)


async def run_to_end(request: Request, running: RunningTurn, exchange: Exchange) -> Committed | Aborted:
    """Wait for the end of a turn; a client that leaves aborts it."""

    async def last() -> Committed | Aborted:
        async for event in exchange.events():
            if isinstance(event, Committed | Aborted):
                return event
        raise AssertionError("a turn ends with one of these")

    leaving = _cancel_when_gone(request.receive, running)
    try:
        return await last()
    finally:
        leaving.cancel()
        running.cancel()  # the server is stopping; after the end this does nothing


class EventStream:
    """Server-sent events of a turn as an ASGI answer. The turn is aborted when the client leaves, or the server does.

    `events` gives the type of an event (None: it has none) and its data; text is sent as it is.
    """

    def __init__(self, running: RunningTurn, events: AsyncIterator[tuple[str | None, dict[str, Any] | str]]):
        self._running, self._events = running, events

    async def __call__(self, scope: MutableMapping[str, Any], receive: Callable, send: Callable) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))
        leaving = _cancel_when_gone(receive, self._running)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for kind, data in self._events:
                body = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
                text = f"data: {body}\n\n" if kind is None else f"event: {kind}\ndata: {body}\n\n"
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            self._running.cancel()


def _cancel_when_gone(receive: Callable[[], Awaitable[Any]], running: RunningTurn) -> "asyncio.Task[None]":
    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        running.cancel()

    return asyncio.create_task(wait())
