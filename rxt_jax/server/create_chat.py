"""A request for a chat completion: its fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rxt_jax.data.template import ThinkingMode
from rxt_jax.model.generation_rules import SamplingConfig
from rxt_jax.server.create_response import EFFORTS, read_model, read_sampling, read_tool_choice, read_tools
from rxt_jax.server.errors import invalid
from rxt_jax.server.fields import Fields
from rxt_jax.server.spoken import content_text

__all__ = ["CreateChat", "read_create_chat"]

_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CreateChat:
    """The fields of a chat completion."""

    messages: list[dict[str, Any]]
    stream: bool
    include_usage: bool
    tools: list[dict[str, Any]]
    must_call: bool
    mode: ThinkingMode
    sampling: SamplingConfig
    limit: int | None
    seed: int | None


def read_create_chat(
    body: Mapping[str, Any], *, model: str, sampling: SamplingConfig, mode: ThinkingMode
) -> CreateChat:
    """Read the body of `POST /v1/chat/completions`; what it leaves out is the server's default."""
    fields = Fields(body)
    messages = [_message(message, number) for number, message in enumerate(fields.items("messages"))]
    if not messages:
        raise invalid("messages", "messages is missing or empty")
    read_model(fields, model)
    chosen, _ = read_sampling(fields, sampling)
    tools = read_tools([_flat(tool, number) for number, tool in enumerate(fields.items("tools"))])
    must_call, _ = read_tool_choice(fields.any("tool_choice"), tools)
    effort = fields.choice("reasoning_effort", EFFORTS)
    options = fields.inner("stream_options")
    include_usage = options.flag("include_usage", False)
    options.only("include_obfuscation", (False,), "chunks are not padded")
    options.end()
    fields.inner("response_format").only("type", ("text",), "replies are free text")
    for name, allowed, why in (
        ("n", (1,), "there is one answer"),
        ("stop", ([],), "a reply ends where the model ends it"),
        ("store", (False,), "use /v1/responses to keep what was said"),
        ("logprobs", (False,), "log-probabilities are not given"),
        ("top_logprobs", (0,), "log-probabilities are not given"),
        ("logit_bias", ({},), "the model's own likelihoods decide"),
        ("presence_penalty", (0,), "repetition is not penalised"),
        ("frequency_penalty", (0,), "repetition is not penalised"),
        ("modalities", (["text"],), "the model writes text alone"),
        ("service_tier", ("auto", "default"), "there is one tier"),
        ("parallel_tool_calls", (True,), "the model itself decides how many tools it calls"),
        ("verbosity", ("medium",), "the model decides how much it says"),
    ):
        fields.only(name, allowed, why)
    # Advice and notes that change no answer.
    fields.ignored("user", "metadata", "safety_identifier", "prompt_cache_key")
    limits = [fields.whole(name, 1, _MOST_TOKENS) for name in ("max_completion_tokens", "max_tokens")]
    request = CreateChat(
        messages=messages,
        stream=fields.flag("stream", False),
        include_usage=include_usage,
        tools=tools,
        must_call=must_call,
        mode=mode if effort is None else EFFORTS[effort],
        sampling=chosen,
        limit=next((limit for limit in limits if limit is not None), None),
        seed=fields.whole("seed", 0, 2**32 - 1),
    )
    fields.end()
    return request


def _message(message: Any, number: int) -> dict[str, Any]:
    fields = Fields(message, f"messages[{number}]")
    role = fields.choice("role", ("system", "developer", "user", "assistant", "tool"))
    if role is None:
        raise invalid(fields.place("role"), f"{fields.place('role')} is missing")
    read: dict[str, Any] = {"role": role, "content": content_text(fields.any("content"), fields.place("content"))}
    if role == "assistant":
        calls = [_call(call, f"{fields.place('tool_calls')}[{n}]") for n, call in enumerate(fields.items("tool_calls"))]
        thought = fields.text("reasoning_content")
        read |= ({"tool_calls": calls} if calls else {}) | ({"reasoning_content": thought} if thought else {})
        fields.only("audio", (), "the model writes text alone")
        fields.only("function_call", (), "use tool_calls")
        fields.only("refusal", (), "there are no refusals")
    if role == "tool":
        read["tool_call_id"] = fields.text("tool_call_id", required=True)
    fields.ignored("name", "annotations")
    fields.end()
    return read


def _call(call: Any, place: str) -> dict[str, Any]:
    fields = Fields(call, place)
    fields.only("type", ("function",), "only functions can be called")
    function = fields.inner("function")
    name, arguments = function.text("name", required=True), function.text("arguments", required=True)
    return {"id": fields.text("id", required=True), "function": {"name": name, "arguments": arguments}}


def _flat(tool: Any, number: int) -> dict[str, Any]:
    """Write a tool as the Responses API does: its function's fields beside its type."""
    fields = Fields(tool, f"tools[{number}]")
    function = fields.any("function")
    if not isinstance(function, Mapping):
        raise invalid(fields.place("function"), f"{fields.place('function')} must be an object")
    return {"type": fields.any("type"), **function}
