"""A request to create a response: its fields, and the response object that echoes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rxt_jax.data.template import ThinkingMode
from rxt_jax.model.generation_rules import SamplingConfig
from rxt_jax.server.errors import ApiError, invalid, unsupported
from rxt_jax.server.fields import Fields
from rxt_jax.server.spoken import items_to_messages

__all__ = ["EFFORTS", "MEMORY_CHANGE", "CreateResponse", "read_create_response", "read_model", "read_sampling",
           "read_tool_choice",
           "read_tools", "response_object", "usage_object"]  # fmt: skip

EFFORTS: Mapping[str, ThinkingMode] = {
    "none": "fast", "minimal": "fast", "low": "auto", "medium": "auto", "high": "extended", "xhigh": "extended",
    "fast": "fast", "auto": "auto", "extended": "extended",
}  # fmt: skip
"""`reasoning.effort` → how a reply begins; the names of the modes themselves are understood too."""

MEMORY_CHANGE = "memory.change"
"""What `include` can ask for, besides nothing: how much the turn changed every slot, relative to what it held."""

_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CreateResponse:
    """The fields that matter to a turn, and those that are only echoed."""

    messages: list[dict[str, Any]]
    given: list[dict[str, Any]]
    """The input as items, for whoever asks for the response later."""
    model: str
    stream: bool
    store: bool
    previous_response_id: str | None
    conversation: str | None
    instructions: str | None
    tools: list[dict[str, Any]]
    must_call: bool
    mode: ThinkingMode
    sampling: SamplingConfig
    limit: int | None
    seed: int | None
    shows_change: bool
    """Whether the response says how much every memory slot changed."""
    echo: dict[str, Any]


def read_create_response(
    body: Mapping[str, Any], *, model: str, sampling: SamplingConfig, mode: ThinkingMode
) -> CreateResponse:
    """Read the body of `POST /v1/responses`; what it leaves out is the server's default."""
    fields = Fields(body)
    given = fields.any("input")
    if given is None:
        raise invalid("input", "input is missing")
    messages = items_to_messages(given)
    chosen, named = read_sampling(fields, sampling)
    tools = read_tools(fields.items("tools"))
    must_call, tool_choice = read_tool_choice(fields.any("tool_choice"), tools)
    reasoning = fields.inner("reasoning")
    effort = reasoning.choice("effort", EFFORTS)
    summary = reasoning.any("summary")  # thoughts are given whole
    reasoning.ignored("generate_summary")
    reasoning.end()
    previous, conversation = fields.text("previous_response_id"), _conversation(fields.any("conversation"))
    if previous is not None and conversation is not None:
        message = "previous_response_id and conversation exclude each other: both say where the turn begins"
        raise ApiError(400, message, param="conversation", code="mutually_exclusive")
    text = fields.inner("text")
    text.inner("format").only("type", ("text",), "replies are free text")
    text.only("verbosity", ("medium",), "the model decides how much it says")
    options = fields.inner("stream_options")
    options.only("include_obfuscation", (False,), "events are not padded")
    options.end()
    for name, allowed, why in (
        ("background", (False,), "a turn is answered while the request waits"),
        ("truncation", ("disabled",), "nothing is cut: memory has a fixed size"),
        ("top_logprobs", (0,), "log-probabilities are not given"),
        ("service_tier", ("auto", "default"), "there is one tier"),
        ("presence_penalty", (0,), "repetition is not penalised"),
        ("frequency_penalty", (0,), "repetition is not penalised"),
        ("parallel_tool_calls", (True,), "the model itself decides how many tools it calls"),
        ("max_tool_calls", (), "tools are called by the client, who can stop"),
        ("prompt", (), "there are no stored prompts"),
    ):
        fields.only(name, allowed, why)
    include = fields.items("include")
    for each in include:
        if each != MEMORY_CHANGE:
            raise unsupported("include", f"include knows {MEMORY_CHANGE} alone, got {each!r}")
    limit = fields.whole("max_output_tokens", 1, _MOST_TOKENS)
    instructions = fields.text("instructions")
    advice = {name: fields.text(name) for name in ("prompt_cache_key", "safety_identifier", "user")}
    fields.ignored("prompt_cache_retention")  # memory is kept as the server's limits say
    echo = {
        "instructions": instructions,
        "max_output_tokens": limit,
        "metadata": fields.metadata(),
        "parallel_tool_calls": True,
        "previous_response_id": previous,
        "reasoning": {"effort": effort, "summary": summary},
        "tool_choice": tool_choice,
        "tools": tools,
        "conversation": None if conversation is None else {"id": conversation},
        **named,
        **advice,
    }
    request = CreateResponse(
        messages=messages,
        given=_as_items(given),
        model=read_model(fields, model),
        stream=fields.flag("stream", False),
        store=fields.flag("store", True),
        previous_response_id=previous,
        conversation=conversation,
        instructions=instructions,
        tools=tools,
        must_call=must_call,
        mode=mode if effort is None else EFFORTS[effort],
        sampling=chosen,
        limit=limit,
        seed=fields.whole("seed", 0, 2**32 - 1),
        shows_change=bool(include),
        echo=echo,
    )
    fields.end()
    return request


def response_object(
    request: CreateResponse,
    identity: str,
    created: float,
    status: str,
    *,
    output: Sequence[dict[str, Any]] = (),
    usage: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    incomplete: str | None = None,
    completed: float | None = None,
) -> dict[str, Any]:
    """Write the response object, with everything that was asked for."""
    return {
        "id": identity,
        "object": "response",
        "created_at": int(created),
        "completed_at": None if completed is None else int(completed),
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "max_tool_calls": None,
        "model": request.model,
        "output": list(output),
        "store": request.store,
        "service_tier": "default",
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "top_logprobs": 0,
        "truncation": "disabled",
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "usage": usage,
        **request.echo,
    }


def usage_object(read: int, made: int, before: int, thought: int = 0) -> dict[str, Any]:
    """Count tokens: those that this turn read and made, and those that a model without memory would have read."""
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + made,
        "stateless_input_tokens": before + read,
    }


def read_sampling(fields: Fields, default: SamplingConfig) -> tuple[SamplingConfig, dict[str, float]]:
    """Read temperature and top-p; 0 is greedy. Returns also what is echoed."""
    temperature, top_p = fields.number("temperature", 0.0, 2.0), fields.number("top_p", 0.0, 1.0)
    if temperature is None:
        temperature = default.temperature or 0.0
    top_p = default.top_p if top_p is None else top_p
    if temperature == 0.0 or top_p == 0.0:
        return SamplingConfig(), {"temperature": temperature, "top_p": top_p}
    chosen = SamplingConfig(temperature=temperature, top_k=default.top_k, top_p=top_p, min_p=default.min_p)
    return chosen, {"temperature": temperature, "top_p": top_p}


def read_tools(given: Sequence[Any]) -> list[dict[str, Any]]:
    """Read the functions that a model may call, in the form of the Responses API."""
    tools = []
    for number, tool in enumerate(given):
        fields = Fields(tool, f"tools[{number}]")
        fields.only("type", ("function",), "only functions can be called")
        name = fields.text("name", required=True)
        parameters = fields.any("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise invalid(fields.place("parameters"), f"{fields.place('parameters')} must be an object")
        about = {"description": fields.text("description"), "parameters": parameters}
        fields.ignored("strict")  # what a model writes is not constrained
        fields.end()
        tools.append({"type": "function", "name": name, **about, "strict": False})
    return tools


def read_tool_choice(choice: Any, tools: Sequence[dict[str, Any]]) -> tuple[bool, Any]:
    """Tell whether a reply has to be a call, and what is echoed."""
    if choice in (None, "auto"):
        return False, "auto"
    if choice == "none" and not tools:
        return False, "none"
    if choice == "required":
        return True, "required"
    raise unsupported(
        "tool_choice", "tool_choice can be auto or required: the model itself chooses which tool it calls"
    )


def read_model(fields: Fields, served: str) -> str:
    """Read the name of the model, which has to be the one that is served."""
    model = fields.text("model") or served
    if model != served:
        message = f"the model {model!r} is not served here; this server has {served!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    return model


def _conversation(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    fields = Fields(value, "conversation")
    identity = fields.text("id", required=True)
    fields.end()
    return identity


def _as_items(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [{"type": "message", **item} for item in given]
