"""What clients say, in either API, as interactions of the template: closed ones with their replies, and the open one.

Items of the Responses API become chat messages first; chat messages become interactions as training data does
(`data/chat_format`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rxt_jax.data.chat_format import messages_to_episode
from rxt_jax.data.faults import RecordError
from rxt_jax.server.errors import invalid, unsupported
from rxt_jax.server.fields import Fields

__all__ = ["Spoken", "canonical", "content_text", "items_to_messages", "messages_to_spoken", "outputs_of"]

_TEXTS = ("input_text", "output_text", "text")
_OTHERS = {"input_image": "images", "image_url": "images", "input_file": "files", "file": "files",
           "input_audio": "audio", "refusal": "refusals"}  # fmt: skip


class Spoken(NamedTuple):
    """`system` may be empty. `closed` are whole interactions, `open_` is the one that waits for its reply."""

    system: str
    closed: list[dict[str, Any]]
    open_: dict[str, Any]


def content_text(content: Any, place: str) -> str:
    """Read text, or a list of parts that are all text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(place, f"{place} must be text or a list of parts")
    texts = []
    for number, part in enumerate(content):
        fields = Fields(part, f"{place}[{number}]")
        kind = fields.text("type", required=True)
        if kind in _OTHERS:
            raise unsupported(fields.place("type"), f"{_OTHERS[kind]} are not supported: the model reads text alone")
        if kind not in _TEXTS:
            raise invalid(fields.place("type"), f"{fields.place('type')} must be input_text, got {kind!r}")
        texts.append(fields.text("text", required=True) or "")
    return "".join(texts)


def items_to_messages(given: Any) -> list[dict[str, Any]]:
    """Turn the `input` of the Responses API into chat messages."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise invalid("input", "input must be text or a list of items, and not be empty")
    messages: list[dict[str, Any]] = []

    def assistant() -> dict[str, Any]:
        """Give the message that thoughts, text and calls of one reply are put into."""
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        return messages[-1]

    for number, item in enumerate(given):
        fields = Fields(item, f"input[{number}]")
        kind = fields.any("type") or "message"
        if kind == "message":
            role = fields.choice("role", ("user", "assistant", "system", "developer"))
            if role is None:
                raise invalid(fields.place("role"), f"{fields.place('role')} is missing")
            text = content_text(fields.any("content"), fields.place("content"))
            if role == "assistant":
                assistant()["content"] += text
            else:
                messages.append({"role": role, "content": text})
        elif kind == "function_call":
            name, arguments = fields.text("name", required=True), fields.text("arguments", required=True)
            call = {"id": fields.text("call_id", required=True), "function": {"name": name, "arguments": arguments}}
            assistant().setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            text = content_text(fields.any("output"), fields.place("output"))
            messages.append({"role": "tool", "content": text, "tool_call_id": fields.text("call_id", required=True)})
        elif kind == "reasoning":
            parts = [*fields.items("content"), *fields.items("summary")]
            thought = "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
            message = assistant()
            message["reasoning_content"] = message.get("reasoning_content", "") + thought
        else:
            raise unsupported(fields.place("type"), f"items of the type {kind!r} are not supported")
    return messages


def outputs_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the ids of the calls whose results these messages bring, of calls that are not among them."""
    made = {call["id"] for message in messages for call in message.get("tool_calls") or () if "id" in call}
    given = [message.get("tool_call_id") for message in messages if message["role"] == "tool"]
    return [identity for identity in given if identity is not None and identity not in made]


def messages_to_spoken(messages: Sequence[Mapping[str, Any]], place: str) -> Spoken:
    """Split chat messages into interactions; the last one must be the user's or a tool's."""
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise invalid(place, f"{place} must end with a message of the user or the result of a tool")
    joined: list[dict[str, Any]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] == "user":
            joined[-1]["content"] = f"{joined[-1]['content']}\n{message['content']}"
        else:
            joined.append(dict(message))
    # What is still to be said stands in for the reply of the open interaction.
    joined.append({"role": "assistant", "content": "?"})
    try:
        episode = messages_to_episode({"messages": joined}, place)
    except RecordError as error:
        raise invalid(place, str(error)) from error
    *closed, open_ = episode["interactions"]
    del open_["answer"]
    if not open_.get("query") and not open_.get("tool_use"):
        raise invalid(place, f"the last message of {place} is empty")
    return Spoken(episode.get("system", ""), closed, open_)


def canonical(value: Any) -> str:
    """Write a value so that equal ones are equal texts."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
