"""`/v1/chat/completions` and `/v1/models`, for clients that send the whole history with every turn.

The longest beginning of the messages that is known goes on from its memory, the rest of the history is replayed: its
interactions are written, not answered again. What is not sent again, such as a request for a title, leaves no trace.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rxt_jax.server.context import Context, Wanted, check_results, context_of, read_body
from rxt_jax.server.create_chat import CreateChat, read_create_chat
from rxt_jax.server.errors import not_found
from rxt_jax.server.exchange import EventStream, Exchange, abort_error, run_to_end
from rxt_jax.server.fields import parse_body
from rxt_jax.server.reply_items import ReplyItems
from rxt_jax.server.rows import TurnRows
from rxt_jax.server.service import Leaves, Origin, Outcome, new_id
from rxt_jax.server.spoken import Spoken, canonical, messages_to_spoken, outputs_of
from rxt_jax.server.turns import Aborted, Ended, Made

__all__ = ["ROUTES"]


class _ChatTurn:
    """One request for a chat completion."""

    def __init__(self, context: Context, request: CreateChat, owner: str):
        self._context, self._request, self._owner = context, request, owner
        self._spoken = messages_to_spoken(request.messages, "messages")
        check_results([], outputs_of(request.messages), "messages")
        self.identity, self._created = new_id("chatcmpl"), int(time.time())
        self._digests = _digests(request.messages, request.tools)
        self.message: dict[str, Any] = {}
        self.finish, self.usage = "", {}

    def wanted(self) -> Wanted:
        request = self._request
        return Wanted(
            api="chat",
            identity=self.identity,
            owner=self._owner,
            place="messages",
            tools=request.tools,
            must_call=request.must_call,
            mode=request.mode,
            sampling=request.sampling,
            limit=request.limit,
            seed=request.seed,
            keeps_memory=True,
        )

    def origin(self) -> tuple[Origin, Spoken]:
        """Find the longest known prefix; what it covers need not be read again."""
        closed = [digest for digest, ends_interaction in self._digests if ends_interaction]
        covered, origin = self._context.service.from_prefix(closed, self._owner)
        if closed:
            self._context.counters.prefix(hit=covered > 0)
        return origin, self._spoken._replace(closed=self._spoken.closed[covered:])

    def leaves(self, outcome: Outcome, origin: Origin, rows: TurnRows) -> Leaves:
        """Write the message, and the digest by which the history that ends with it will be known."""
        items = ReplyItems(self._context.tokenizer, self.identity[-8:])
        for _ in (*items.push(outcome.ids), *items.close(complete=outcome.complete)):
            pass
        self.message = _message(items.items)
        calls = bool(self.message.get("tool_calls"))
        self.finish = "length" if not outcome.complete else "tool_calls" if calls else "stop"
        read = origin.state.tokens + rows.read_tokens
        self.usage = {
            "prompt_tokens": read,
            "completion_tokens": len(outcome.ids),
            "total_tokens": read + len(outcome.ids),
            # Of the tokens that were sent, those that memory knew already.
            "prompt_tokens_details": {"cached_tokens": origin.state.tokens},
        }
        last = self._digests[-1][0]
        state = replace(rows.state, tokens=read)
        return Leaves(state, prefix=_digest(last, _normal({"role": "assistant", **self.message})))

    def completion(self) -> dict[str, Any]:
        """Write the answer of a request that does not stream."""
        message = {"role": "assistant", "content": None, "refusal": None, **self.message}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}

    async def stream(self, exchange: Exchange) -> AsyncIterator[tuple[None, dict[str, Any] | str]]:
        """Give the chunks of a streamed answer."""
        yield None, self._chunk({"role": "assistant", "content": ""})
        items = ReplyItems(self._context.tokenizer, self.identity[-8:])
        calls = 0
        async for event in exchange.events():
            if isinstance(event, Aborted):
                yield None, abort_error(event).body()
                return
            announced = ()
            if isinstance(event, Made):
                announced = items.push(event.ids)
            elif isinstance(event, Ended):
                announced = items.close()
            for kind, fields in announced:
                if kind == "response.output_text.delta":
                    yield None, self._chunk({"content": fields["delta"]})
                elif kind == "response.reasoning_text.delta":
                    yield None, self._chunk({"reasoning_content": fields["delta"]})
                elif kind == "response.output_item.done" and fields["item"]["type"] == "function_call":
                    call = {"index": calls, **_tool_call(fields["item"])}
                    name, arguments = call["function"]["name"], call["function"]["arguments"]
                    call["function"] = {"name": name, "arguments": ""}
                    yield None, self._chunk({"tool_calls": [call]})
                    yield None, self._chunk({"tool_calls": [{"index": calls, "function": {"arguments": arguments}}]})
                    calls += 1
        yield None, self._chunk({}, finish=self.finish)
        if self._request.include_usage:
            yield None, {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage}
        yield None, "[DONE]"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self._created, "model": self._context.name}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._request.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}


async def _create(request: Request) -> Any:
    context = context_of(request)
    owner = context.owner(request)
    body = parse_body(await read_body(request, context.body_bytes))
    wanted = read_create_chat(body, model=context.name, sampling=context.sampling, mode=context.mode)
    turn = _ChatTurn(context, wanted, owner)
    running, exchange = await turn.wanted().begin(context, turn.origin, turn.leaves)
    if wanted.stream:
        return EventStream(running, turn.stream(exchange))
    event = await run_to_end(request, running, exchange)
    if isinstance(event, Aborted):
        raise abort_error(event)
    return JSONResponse(turn.completion())


async def _models(request: Request) -> Response:
    context_of(request).owner(request)
    return JSONResponse({"object": "list", "data": [_model(context_of(request))]})


async def _get_model(request: Request) -> Response:
    context = context_of(request)
    context.owner(request)
    if request.path_params["id"] != context.name:
        raise not_found("model", request.path_params["id"], code="model_not_found", param="model")
    return JSONResponse(_model(context))


def _model(context: Context) -> dict[str, Any]:
    return {"id": context.name, "object": "model", "created": int(context.created), "owned_by": "rxt_jax"}


def _message(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write output items as the message of a chat completion."""
    texts = {"message": "", "reasoning": ""}
    for item in items:
        if item["type"] in texts:
            texts[item["type"]] += "".join(part["text"] for part in item["content"])
    calls = [_tool_call(item) for item in items if item["type"] == "function_call"]
    message: dict[str, Any] = {"content": texts["message"] or (None if calls else "")}
    if texts["reasoning"]:
        message["reasoning_content"] = texts["reasoning"]
    return message | ({"tool_calls": calls} if calls else {})


def _tool_call(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _digests(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> list[tuple[str, bool]]:
    """Digest every prefix of a history, and tell whether an interaction ends there."""
    digest, digests = _digest("", tools), []
    for message in messages:
        digest = _digest(digest, _normal(message))
        digests.append((digest, message["role"] == "assistant"))
    return digests


def _normal(message: Mapping[str, Any]) -> Any:
    """Reduce a message to what memory holds of it, however a client writes it down."""
    calls = [[call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls") or ()]
    role = "system" if message["role"] == "developer" else message["role"]
    return [role, message.get("content") or "", calls]


def _digest(before: str, what: Any) -> str:
    return hashlib.sha256((before + canonical(what)).encode()).hexdigest()


ROUTES = [
    Route("/v1/chat/completions", _create, methods=["POST"]),
    Route("/v1/models", _models, methods=["GET"]),
    Route("/v1/models/{id:path}", _get_model, methods=["GET"]),
]
