"""A reply as output items of the Responses API: thoughts, text, tool calls, and the events that announce them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.serving import Chunk
from rxt_jax.serving.streaming import ReplyText

__all__ = ["INVALID_CALL", "Call", "ReplyItems", "parse_calls"]

INVALID_CALL = "invalid_tool_call"
"""Name of a call that the model wrote in no form that can be read; its arguments are the text as it is."""

Announced = tuple[str, dict[str, Any]]
"""The type of an event and its fields."""


class Call(NamedTuple):
    """A tool call: name, and arguments as JSON."""

    name: str
    arguments: str


def parse_calls(text: str) -> list[Call]:
    """Read the text of a tool call, `{"tool": name, …}` or a list of such; see `data/chat_format`."""
    try:
        found = json.loads(text)
    except ValueError:
        return [Call(INVALID_CALL, text)]
    calls = []
    for call in found if isinstance(found, list) and found else [found]:
        if not isinstance(call, dict) or not isinstance(call.get("tool"), str):
            return [Call(INVALID_CALL, text)]
        arguments = {name: value for name, value in call.items() if name != "tool"}
        calls.append(Call(call["tool"], json.dumps(arguments, ensure_ascii=False)))
    return calls


class ReplyItems:
    """Turn the ids of a reply into items, and give the events on the way.

    Ids of items come from `suffix`, so who reads the same ids again gets the same items. A tool call is announced when
    it is whole: before that nobody knows its name.
    """

    def __init__(self, tokenizer: Tokenizer, suffix: str):
        self.items: list[dict[str, Any]] = []
        self.calls: dict[str, str] = {}
        """Ids of the tool calls → names."""
        self._text, self._suffix = ReplyText(tokenizer), suffix
        self._block, self._said = "", ""

    def push(self, ids: list[int]) -> Iterator[Announced]:
        """Give the events of these ids."""
        yield from self._events(self._text.push(ids))

    def close(self, *, complete: bool = True) -> Iterator[Announced]:
        """Give the events that end the reply; one that was cut has an incomplete last item."""
        yield from self._events(self._text.close())
        if not self._block and not self.items:
            yield from self._open("answer")  # a reply without a word is a message all the same
        yield from self._end("completed" if complete else "incomplete")

    def _events(self, chunks: Iterable[Chunk]) -> Iterator[Announced]:
        for chunk in chunks:
            if chunk.block != self._block:
                yield from self._end("completed")
                yield from self._open(chunk.block)
            self._said += chunk
            if chunk.block != "tool_call":
                kind = "output_text" if chunk.block == "answer" else "reasoning_text"
                more = {"logprobs": []} if chunk.block == "answer" else {}
                yield f"response.{kind}.delta", {**self._place(), "delta": str(chunk), **more}

    def _open(self, block: str) -> Iterator[Announced]:
        self._block, self._said = block, ""
        if block == "tool_call":
            return
        if block == "answer":
            item = {"id": self._identity("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
        else:
            item = {"id": self._identity("rs"), "type": "reasoning", "summary": [], "status": "in_progress"}
        self.items.append({**item, "content": []})
        yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": self.items[-1]}
        yield "response.content_part.added", {**self._place(), "part": self._part("")}

    def _end(self, status: str) -> Iterator[Announced]:
        if not self._block:
            return
        if self._block == "tool_call":
            yield from self._announce_calls(status)
        else:
            kind = "output_text" if self._block == "answer" else "reasoning_text"
            more = {"logprobs": []} if self._block == "answer" else {}
            yield f"response.{kind}.done", {**self._place(), "text": self._said, **more}
            yield "response.content_part.done", {**self._place(), "part": self._part(self._said)}
            item = self.items[-1] = {**self.items[-1], "status": status, "content": [self._part(self._said)]}
            yield "response.output_item.done", {"output_index": len(self.items) - 1, "item": item}
        self._block = ""

    def _announce_calls(self, status: str) -> Iterator[Announced]:
        for call in parse_calls(self._said):
            identity, call_id = self._identity("fc"), self._identity("call")
            item = {"id": identity, "type": "function_call", "status": "in_progress", "call_id": call_id}
            item |= {"name": call.name, "arguments": ""}
            index = {"output_index": len(self.items)}
            where = {"item_id": identity, **index}
            self.items.append({**item, "status": status, "arguments": call.arguments})
            self.calls[call_id] = call.name
            yield "response.output_item.added", {**index, "item": item}
            yield "response.function_call_arguments.delta", {**where, "delta": call.arguments}
            done = {**where, "name": call.name, "arguments": call.arguments}
            yield "response.function_call_arguments.done", done
            yield "response.output_item.done", {**index, "item": self.items[-1]}

    def _identity(self, kind: str) -> str:
        return f"{kind}_{self._suffix}{len(self.items):02d}"

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, "content_index": 0}

    def _part(self, text: str) -> dict[str, Any]:
        if self._block == "answer":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "reasoning_text", "text": text}
