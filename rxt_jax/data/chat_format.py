"""Chat-format records, `{"messages": [{"role": …, "content": …}, …]}`, as episodes.

user → `query`, tool → `tool_use`, assistant → `think` (its reasoning), `answer` and `tool_call`, a leading system
message → the episode's `system`, a later one → `internal` of the interaction that follows. Several results of
parallel calls are joined by line breaks into one `tool_use`; several calls of one message become a JSON list. A call is
written as the object of its arguments with the name under `tool`, as the seeds of the template do.
"""

import json
from collections.abc import Mapping
from typing import Any

from rxt_jax.data.faults import RecordError

__all__ = ["messages_to_episode"]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "think")


def messages_to_episode(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the episode of a chat record, or raise a `RecordError` that names the message at fault."""
    messages = record["messages"]
    if not isinstance(messages, list):
        message = f"field 'messages' must be a list, got {type(messages).__name__}"
        raise RecordError(place, message, "wrong_type", "messages")
    episode = {name: value for name, value in record.items() if name not in ("messages", "tools")}
    interactions: list[dict[str, Any]] = []
    open_: dict[str, Any] = {}  # the input of the interaction whose reply has not come yet
    for number, message in enumerate(messages):
        here = f"{place}, message {number}"
        role, text = _role(message, here), _content(message, here)
        has_input = "query" in open_ or "tool_use" in open_
        if role == "assistant":
            if not has_input:
                raise RecordError(here, "the assistant speaks, but nothing was asked before", "role_order", "role")
            interactions.append(open_ | _reply(message, text, here))
            open_ = {}
        elif role == "system":
            if has_input:
                raise RecordError(
                    here, "a system message stands between a question and its reply", "role_order", "role"
                )
            if interactions or "system" in episode:
                open_["internal"] = "\n".join(part for part in (open_.get("internal"), text) if part)
            else:
                episode["system"] = text
        elif role == "tool" and "tool_use" in open_:
            open_["tool_use"] += "\n" + text
        elif has_input:
            raise RecordError(here, f"a {role} message follows one that has no reply yet", "role_order", "role")
        else:
            open_["tool_use" if role == "tool" else "query"] = text
    if open_:
        raise RecordError(place, "the last message has no reply of the assistant", "missing_field", "messages")
    return episode | {"interactions": interactions}


def _role(message: Any, place: str) -> str:
    if not isinstance(message, Mapping):
        raise RecordError(place, f"expected an object, got {type(message).__name__}", "wrong_type", "messages")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RecordError(
            place, f"field 'role' must be user, assistant, tool or system, got {role!r}", "bad_role", "role"
        )
    return _ROLES[role]


def _content(message: Mapping[str, Any], place: str) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    message_ = f"field 'content' must be text, a list of text parts or null, got {type(content).__name__}"
    raise RecordError(place, message_, "wrong_type", "content")


def _reply(message: Mapping[str, Any], text: str, place: str) -> dict[str, Any]:
    thought = next((message[name] for name in _THOUGHTS if message.get(name)), None)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RecordError(place, "field 'tool_calls' must be a list or null", "wrong_type", "tool_calls")
    written = [_call(call, place) for call in calls]
    tool_call = None
    if written:
        tool_call = json.dumps(written[0] if len(written) == 1 else written, ensure_ascii=False)
    reply = {"think": thought, "answer": text or None, "tool_call": tool_call}
    return {name: value for name, value in reply.items() if value is not None}


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise RecordError(place, "a tool call needs the name of its function", "missing_field", "tool_calls")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            message = f"the arguments of {name!r} are not valid JSON"
            raise RecordError(place, message, "bad_tool_call", "tool_calls") from None
    if not isinstance(arguments, Mapping) or "tool" in arguments:
        message = f"the arguments of {name!r} must be an object without the key 'tool', which names the function"
        raise RecordError(place, message, "bad_tool_call", "tool_calls")
    return {"tool": name, **arguments}
