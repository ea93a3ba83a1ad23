"""The cases of the Open Responses compliance suite: six pass, and the one with an image gets its error."""

import httpx
import pytest
from loopback import http

ECHO = {"id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
        "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
        "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage",
        "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier",
        "prompt_cache_key"}  # fmt: skip
WEATHER = {
    "type": "function",
    "name": "look",
    "description": "Look.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}


def message(role, text):
    return {"type": "message", "role": role, "content": text}


def post(server, given, **more):
    answer = http.post(f"{server.url}/responses", json={"model": "parrot", "input": given, **more})
    assert answer.status_code == 200, answer.text
    return answer


def check(body, kind="message"):
    assert set(body) >= ECHO and body["object"] == "response" and body["status"] == "completed"
    assert kind in [item["type"] for item in body["output"]]
    assert all(item["id"] and item["status"] == "completed" for item in body["output"])
    assert {"input_tokens", "output_tokens", "total_tokens"} <= set(body["usage"])


@pytest.mark.parametrize("given", [
    [message("user", "Hello.")],
    [message("system", "You are a pirate."), message("user", "Hello.")],
    [message("user", "Hello."), message("assistant", "Hello you."), message("user", "Give it a title.")],
], ids=["basic", "system prompt", "multi-turn"])  # fmt: skip
def test_text(server, given):
    check(post(server, given).json())


def streamed(server, given, **more):
    events = []
    with http.stream("POST", f"{server.url}/responses", json={"input": given, "stream": True, **more}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = None
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                event = httpx.Response(200, content=line[6:]).json()
                assert event["type"] == name
                events.append(event)
    return events


def test_streaming(server):
    events = streamed(server, [message("user", "Hello.")])
    assert events[-1]["type"] == "response.completed"
    check(events[-1]["response"])


def test_tools(server):
    check(post(server, [message("user", "How is Porto?")], tools=[WEATHER]).json(), "function_call")


def test_tools_streaming(server):
    events = streamed(server, [message("user", "How is Porto?")], tools=[WEATHER])
    assert "response.function_call_arguments.done" in [event["type"] for event in events]
    check(events[-1]["response"], "function_call")


def test_an_image_is_refused(server):
    parts = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": "data:,"}]
    answer = http.post(f"{server.url}/responses", json={"input": [message("user", parts)]})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("images are not supported")
