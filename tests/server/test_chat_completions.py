"""`/v1/chat/completions` with the `openai` client: histories that are known, replayed, and left alone."""

import json

import openai
import pytest

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def ask(client, messages, **options):
    return client.chat.completions.create(model="parrot", messages=messages, **options)


def user(text):
    return {"role": "user", "content": text}


def test_a_completion(client):
    made = ask(client, [user("Hello.")])
    (choice,) = made.choices
    assert (choice.message.content, choice.finish_reason) == ("Hello you.", "stop")
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.prompt_tokens_details.cached_tokens == 0


def test_a_streamed_completion_with_usage(client):
    chunks = list(ask(client, [user("Hello.")], stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello you."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 3
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_known_history_is_not_read_again(client, server):
    history = [{"role": "system", "content": "Be kind."}, user("Hello.")]
    first = ask(client, history)
    history += [first.choices[0].message.model_dump(exclude_none=True), user("Give it a title.")]
    second = ask(client, history)
    assert second.choices[0].message.content == "A chat."
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens
    # What it was answered from is the memory of a history that is replayed: the same interactions, not read before.
    replayed = [dict(message) for message in history]
    replayed[0]["content"] = "Be kind"
    assert ask(client, replayed).usage.prompt_tokens_details.cached_tokens == 0
    shorter = ask(client, [*history[:2], {"role": "assistant", "content": "Hello there."}, user("Hello.")])
    assert shorter.usage.prompt_tokens_details.cached_tokens == 0


def test_a_request_for_a_title_leaves_no_trace(client):
    history = [user("Hello."), {"role": "assistant", "content": "Hello you."}]
    ask(client, history[:1])
    plain = ask(client, [*history, user("How is Porto?")], tools=None)
    title = ask(client, [*history, user("Give it a title.")])
    again = ask(client, [*history, user("How is Porto?")])
    assert title.choices[0].message.content == "A chat."
    assert again.usage == plain.usage
    assert again.choices[0].message.content == plain.choices[0].message.content


def test_tool_calls_and_their_results(client):
    messages = [user("How is Porto?")]
    made = ask(client, messages, tools=[TOOL])
    (choice,) = made.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "Porto"})
    messages += [choice.message.model_dump(exclude_none=True)]
    after = ask(client, [*messages, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}], tools=[TOOL])
    assert after.choices[0].message.content == "It is sunny."
    assert after.usage.prompt_tokens_details.cached_tokens == made.usage.total_tokens


def test_streamed_tool_deltas(client):
    chunks = list(ask(client, [user("Compare.")], tools=[TOOL], stream=True))
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert [delta.index for delta in deltas] == [0, 0, 1, 1]
    assert deltas[0].function.name == "look" and deltas[0].id.startswith("call_")
    assert [json.loads(delta.function.arguments)["at"] for delta in deltas[1::2]] == ["Oslo", "Rome"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_thoughts_and_limits(client):
    made = ask(client, [user("Two and two?")], reasoning_effort="high")
    assert made.choices[0].message.content == "Four."
    assert made.choices[0].message.reasoning_content == "add them"
    assert ask(client, [user("Hello.")], max_tokens=2).choices[0].finish_reason == "length"


@pytest.mark.parametrize(("body", "param"), [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages"),
    ({"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]}, "messages[0].content[0].type"),
    ({"messages": [user("x")], "n": 2}, "n"),
    ({"messages": [user("x")], "stop": ["."]}, "stop"),
    ({"messages": [user("x")], "store": True}, "store"),
    ({"messages": [user("x")], "logprobs": True}, "logprobs"),
    ({"messages": [user("x")], "response_format": {"type": "json_object"}}, "response_format.type"),
    ({"messages": [user("x")], "tools": [{"type": "function"}]}, "tools[0].function"),
    ({"messages": [user("x")], "flavour": 1}, "flavour"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(client, body, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body=body, cast_to=object)
    assert refused.value.body["param"] == param


def test_models(client):
    assert [model.id for model in client.models.list()] == ["parrot"]
    assert client.models.retrieve("parrot").owned_by == "rxt_jax"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
