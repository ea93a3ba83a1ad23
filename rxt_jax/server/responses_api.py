"""`/v1/responses`: a turn, streamed or not; a response id names the memory after its turn."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rxt_jax.server.context import Context, Wanted, check_results, context_of, read_body
from rxt_jax.server.create_response import CreateResponse, read_create_response, response_object, usage_object
from rxt_jax.server.errors import ApiError, not_found
from rxt_jax.server.exchange import EventStream, Exchange, abort_error, run_to_end
from rxt_jax.server.fields import parse_body
from rxt_jax.server.item_lists import input_items, page_of
from rxt_jax.server.reply_items import ReplyItems
from rxt_jax.server.rows import TurnRows
from rxt_jax.server.service import Leaves, Origin, Outcome, new_id
from rxt_jax.server.spoken import Spoken, messages_to_spoken, outputs_of
from rxt_jax.server.turns import Aborted, Ended, Made
from rxt_jax.serving.memory_change import measure_change

__all__ = ["ROUTES"]


class _ResponseTurn:
    """One request to create a response, from its fields to the object that is stored."""

    def __init__(self, context: Context, request: CreateResponse, owner: str):
        self._context, self._request, self._owner = context, request, owner
        self._spoken = messages_to_spoken(request.messages, "input")
        if request.instructions:
            system = "\n\n".join(part for part in (request.instructions, self._spoken.system) if part)
            self._spoken = self._spoken._replace(system=system)
        self.identity, self._created = new_id("resp"), time.time()
        self.final: dict[str, Any] = {}
        """The response object of the completed turn."""

    def wanted(self) -> Wanted:
        request = self._request
        return Wanted(
            api="responses",
            identity=self.identity,
            owner=self._owner,
            place="input",
            tools=request.tools,
            must_call=request.must_call,
            mode=request.mode,
            sampling=request.sampling,
            limit=request.limit,
            seed=request.seed,
            keeps_memory=request.store or request.conversation is not None,
        )

    def origin(self) -> tuple[Origin, Spoken]:
        """Look up where the turn begins, and check that open tool calls get their results."""
        request, service = self._request, self._context.service
        if request.previous_response_id is not None:
            origin = service.from_response(request.previous_response_id, self._owner)
        elif request.conversation is not None:
            origin = service.from_conversation(request.conversation, self._owner)
        else:
            origin = Origin()
        check_results(list(origin.state.calls), outputs_of(request.messages), "input")
        return origin, self._spoken

    def leaves(self, outcome: Outcome, origin: Origin, rows: TurnRows) -> Leaves:
        """Write the response object; runs where the turn is committed."""
        items = ReplyItems(self._context.tokenizer, _suffix(self.identity))
        for _ in (*items.push(outcome.ids), *items.close(complete=outcome.complete)):
            pass
        thought = _thought_tokens(outcome.ids, self._context)
        self.final = response_object(
            self._request,
            self.identity,
            self._created,
            "completed" if outcome.complete else "incomplete",
            output=items.items,
            usage=usage_object(rows.read_tokens, len(outcome.ids), origin.state.tokens, thought),
            incomplete=None if outcome.complete else "max_output_tokens",
            completed=time.time() if outcome.complete else None,
        )
        if self._request.shows_change and outcome.after is not None:
            self.final["memory_change"] = _relative_change(outcome, self._context)
        tokens = origin.state.tokens + rows.read_tokens
        state = replace(rows.state, tokens=tokens, calls=items.calls)
        kept = self.final if self._request.store else None
        return Leaves(state, kept, self._request.given)

    def object(self, status: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the response object of a turn that is not, or never, complete."""
        return response_object(self._request, self.identity, self._created, status, error=error)

    async def stream(self, exchange: Exchange) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Give the events of the API, numbered."""
        number = 0
        async for kind, fields in self._events(exchange):
            yield kind, {"type": kind, "sequence_number": number, **fields}
            number += 1

    async def _events(self, exchange: Exchange) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        for kind in ("created", "in_progress"):
            yield f"response.{kind}", {"response": self.object("in_progress")}
        items = ReplyItems(self._context.tokenizer, _suffix(self.identity))
        async for event in exchange.events():
            if isinstance(event, Made):
                for announced in items.push(event.ids):
                    yield announced
            elif isinstance(event, Ended):
                for announced in items.close(complete=event.complete):
                    yield announced
            elif isinstance(event, Aborted):
                yield "response.failed", {"response": self.aborted(event)}
        if self.final:
            yield f"response.{self.final['status']}", {"response": self.final}

    def aborted(self, event: Aborted) -> dict[str, Any]:
        """Write the response object of a turn that was given up."""
        if event.reason == "cancelled":
            return self.object("cancelled")
        error = abort_error(event)
        return self.object("failed", {"code": error.code, "message": error.message})


async def _create(request: Request) -> Any:
    context = context_of(request)
    owner = context.owner(request)
    body = parse_body(await read_body(request, context.body_bytes))
    wanted = read_create_response(body, model=context.name, sampling=context.sampling, mode=context.mode)
    turn = _ResponseTurn(context, wanted, owner)
    running, exchange = await turn.wanted().begin(context, turn.origin, turn.leaves)
    if wanted.stream:
        return EventStream(running, turn.stream(exchange))
    event = await run_to_end(request, running, exchange)
    if isinstance(event, Aborted) and event.reason != "cancelled":
        raise abort_error(event)
    return JSONResponse(turn.aborted(event) if isinstance(event, Aborted) else turn.final)


async def _get(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    owner = context.owner(request)
    if request.query_params.get("stream") == "true":
        raise ApiError(400, "a stored response cannot be streamed again", param="stream", code="unsupported_value")
    if context.service.running(identity, owner) is not None:
        raise ApiError(409, f"response {identity!r} is not complete yet", code="response_in_progress")
    return JSONResponse(_stored(context, identity, owner).body)


async def _delete(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    if not context.service.index.delete_response(identity, context.owner(request)):
        raise not_found("response", identity)
    return JSONResponse({"id": identity, "object": "response", "deleted": True})


async def _cancel(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    owner = context.owner(request)
    running = context.service.running(identity, owner)
    if running is None:
        body = _stored(context, identity, owner).body
        raise ApiError(400, f"response {identity!r} is {body['status']} already", code="response_complete")
    if not running.cancel():
        raise ApiError(409, f"response {identity!r} has just been completed", code="response_complete")
    return JSONResponse({"id": identity, "object": "response", "status": "cancelled"})


async def _input_items(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    items = input_items(_stored(context, identity, context.owner(request)))
    return JSONResponse(page_of(items, request.query_params))


async def _memory(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    origin = context.service.from_response(identity, context.owner(request))
    return Response(context.service.memory_content(origin), media_type="application/octet-stream")


def _stored(context: Context, identity: str, owner: str) -> Any:
    stored = context.service.index.response(identity, owner)
    if stored is None:
        raise not_found("response", identity)
    return stored


def _suffix(identity: str) -> str:
    return identity.partition("_")[2]


def _thought_tokens(ids: list[int], context: Context) -> int:
    """Count the tokens of a reply that are thoughts: those from `[T]` up to the next block."""
    special = context.tokenizer.special
    if special.think not in ids:
        return 0
    start = ids.index(special.think)
    others = [place for place, each in enumerate(ids) if each in (special.answer, special.tool_call, special.eos)]
    return next((place for place in others if place > start), len(ids)) - start


def _relative_change(outcome: Outcome, context: Context) -> list[list[float]]:
    change = measure_change(outcome.after, outcome.before, context.service.initial_memory)  # type: ignore[arg-type]
    return (change.change / (change.level + 1e-9)).round(4).tolist()


ROUTES = [
    Route("/v1/responses", _create, methods=["POST"]),
    Route("/v1/responses/{id}", _get, methods=["GET"]),
    Route("/v1/responses/{id}", _delete, methods=["DELETE"]),
    Route("/v1/responses/{id}/cancel", _cancel, methods=["POST"]),
    Route("/v1/responses/{id}/input_items", _input_items, methods=["GET"]),
    Route("/v1/responses/{id}/memory", _memory, methods=["GET"]),
]
