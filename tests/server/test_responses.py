"""`/v1/responses` with the `openai` client against a real server: streams, branches, tools, errors."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from loopback import PATIENT, http, until

from rxt_jax.server import exchange

TEXT_EVENTS = ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
               "output_text.done", "content_part.done", "output_item.done", "completed"]  # fmt: skip
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def memory_of(server, response):
    """The memory after a response, as it is on disk."""
    content = http.get(f"{server.url}/responses/{response.id}/memory").read()
    return server.service.memories.parse(content, source="it").values


def test_a_response_and_everything_it_echoes(client):
    made = client.responses.create(model="parrot", input="Hello.", metadata={"a": "b"}, max_output_tokens=50)
    assert made.output_text == "Hello you."
    assert (made.status, made.object, made.metadata, made.max_output_tokens) == (
        "completed",
        "response",
        {"a": "b"},
        50,
    )
    assert made.usage.output_tokens == made.usage.total_tokens - made.usage.input_tokens > 3
    assert made.usage.stateless_input_tokens == made.usage.input_tokens
    assert client.responses.retrieve(made.id) == made
    items = client.responses.input_items.list(made.id).data
    assert [item.content[0].text for item in items] == ["Hello."]


def test_a_stream_has_all_nine_events_in_order(client):
    kinds, numbers, text = [], [], ""
    for event in client.responses.create(input="Hello.", stream=True):
        kinds.append(event.type.removeprefix("response."))
        numbers.append(event.sequence_number)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert list(dict.fromkeys(kinds)) == TEXT_EVENTS
    assert kinds.count("output_text.delta") > 1
    assert numbers == list(range(len(kinds)))
    assert text == "Hello you."
    final = event.response
    assert final.output_text == text and client.responses.retrieve(final.id) == final


def test_the_clients_own_stream_helper_follows(client):
    with client.responses.stream(model="parrot", input="Hello.") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "Hello you."


def test_a_cut_reply_is_incomplete_and_remembered(client, server):
    *_, last = client.responses.create(input="Hello.", stream=True, max_output_tokens=2)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"
    assert client.responses.create(input="Hello.", previous_response_id=last.response.id).status == "completed"


def test_two_children_are_two_branches_and_the_parent_stays(client, server):
    parent = client.responses.create(input="Hello.")
    before = memory_of(server, parent)
    one = client.responses.create(input="Give it a title.", previous_response_id=parent.id)
    two = client.responses.create(input="How is Porto?", previous_response_id=parent.id)
    again = client.responses.create(input="Give it a title.", previous_response_id=parent.id)
    np.testing.assert_array_equal(memory_of(server, parent), before)
    np.testing.assert_array_equal(memory_of(server, one), memory_of(server, again))
    assert np.abs(memory_of(server, one) - memory_of(server, two)).max() > 1e-4
    assert one.usage.stateless_input_tokens == one.usage.input_tokens + parent.usage.total_tokens
    assert one.previous_response_id == parent.id


def test_a_conversation_moves_on_with_every_turn(client, server):
    conversation = client.conversations.create(metadata={"topic": "x"})
    one = client.responses.create(input="Hello.", conversation=conversation.id)
    two = client.responses.create(input="Give it a title.", conversation={"id": conversation.id})
    chained = client.responses.create(input="Give it a title.", previous_response_id=one.id)
    np.testing.assert_array_equal(memory_of(server, two), memory_of(server, chained))
    assert two.conversation.id == conversation.id
    assert client.conversations.retrieve(conversation.id).metadata == {"topic": "x"}
    assert client.conversations.update(conversation.id, metadata={}).metadata == {}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError, match="no conversation"):
        client.responses.create(input="Hello.", conversation=conversation.id)


def test_a_conversation_moves_on_with_what_is_not_stored(client, server):
    conversation = client.conversations.create().id
    hidden = client.responses.create(input="Hello.", conversation=conversation, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(hidden.id)
    two = client.responses.create(input="Give it a title.", conversation=conversation)
    first = client.responses.create(input="Hello.")
    branch = client.responses.create(input="Give it a title.", previous_response_id=first.id)
    np.testing.assert_array_equal(memory_of(server, two), memory_of(server, branch))


def test_what_is_not_stored_cannot_be_found_or_continued(client):
    made = client.responses.create(input="Hello.", store=False)
    assert made.output_text == "Hello you."
    for wrong in (
        lambda: client.responses.retrieve(made.id),
        lambda: client.responses.create(input="Hello.", previous_response_id=made.id),
        lambda: client.responses.delete("resp_unknown"),
    ):
        with pytest.raises(openai.NotFoundError):
            wrong()
    kept = client.responses.create(input="Hello.")
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(kept.id)


def test_instructions_are_written_once_and_persist(client, server):
    told = client.responses.create(input="Hello.", instructions="Be kind.")
    untold = client.responses.create(input="Hello.")
    assert np.abs(memory_of(server, told) - memory_of(server, untold)).max() > 1e-4
    assert told.usage.input_tokens > untold.usage.input_tokens
    again = client.responses.create(input="Hello.", instructions="Be kind.", previous_response_id=told.id)
    silent = client.responses.create(input="Hello.", previous_response_id=told.id)
    np.testing.assert_array_equal(memory_of(server, again), memory_of(server, silent))
    other = client.responses.create(input="Hello.", instructions="Be rude.", previous_response_id=told.id)
    assert other.usage.input_tokens > silent.usage.input_tokens


def test_a_history_that_the_client_sends_is_replayed(client, server):
    parent = client.responses.create(input="Hello.")
    child = client.responses.create(input="Give it a title.", previous_response_id=parent.id)
    history = [{"role": "user", "content": "Hello."}, *parent.output, {"role": "user", "content": "Give it a title."}]
    replayed = client.responses.create(
        input=[each if isinstance(each, dict) else each.model_dump() for each in history]
    )
    np.testing.assert_array_equal(memory_of(server, replayed), memory_of(server, child))


def test_thoughts_are_reasoning_items(client):
    made = client.responses.create(input="Two and two?", reasoning={"effort": "high"})
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert made.output[0].content[0].text == "add them" and made.output_text == "Four."
    assert made.usage.output_tokens_details.reasoning_tokens > 1
    kinds = [event.type for event in client.responses.create(input="Two and two?", reasoning={"effort": "extended"},
                                                             stream=True)]  # fmt: skip
    assert "response.reasoning_text.delta" in kinds and kinds[-1] == "response.completed"


def call(client, **options):
    return client.responses.create(tools=[TOOL], **options)


def test_tool_calls_can_follow_one_another(client):
    first = call(client, input="How is Porto?")
    (item,) = first.output
    assert (item.type, item.name, json.loads(item.arguments)) == ("function_call", "look", {"at": "Porto"})
    with pytest.raises(openai.BadRequestError, match="no tool output found for function call"):
        client.responses.create(input="Hello.", previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError, match="no tool call 'call_x' waits"):
        result(client, first, "call_x", "rain")
    second = result(client, first, item.call_id, "rain")
    assert json.loads(second.output[0].arguments) == {"at": "Rome"}
    third = result(client, second, second.output[0].call_id, "snow")
    assert third.output_text == "Snow in Rome."


def result(client, response, call_id, text, **options):
    given = [{"type": "function_call_output", "call_id": call_id, "output": text}]
    return client.responses.create(input=given, previous_response_id=response.id, **options)


def test_a_call_can_be_demanded(client):
    made = client.responses.create(input="Compare.", tool_choice="required")
    assert [item.type for item in made.output] == ["function_call", "function_call"]


def test_parallel_calls_get_their_results_together(client):
    made = call(client, input="Compare.")
    assert [json.loads(item.arguments)["at"] for item in made.output] == ["Oslo", "Rome"]
    given = [
        {"type": "function_call_output", "call_id": item.call_id, "output": text}
        for item, text in zip(made.output, ("warm", "cold"), strict=True)
    ]
    after = client.responses.create(input=given, previous_response_id=made.id)
    assert after.output_text == "Warm and cold."


def test_a_call_that_cannot_be_read_is_not_lost(client):
    (item,) = call(client, input="Break.").output
    assert (item.name, item.arguments) == ("invalid_tool_call", "look at {Porto")


def test_a_streamed_tool_call(client):
    events = list(client.responses.create(input="How is Porto?", tools=[TOOL], stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    calls = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert kinds == ["created", "in_progress", *calls, "completed"]


@pytest.mark.parametrize(("body", "param"), [
    ({"input": ""}, "input"),
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"role": "assistant", "content": "Hi"}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": "word " * 400}, "input"),
    ({"input": "Hi", "instructions": "word " * 400}, "instructions"),
    ({"input": "Hi", "temperature": 3}, "temperature"),
    ({"input": "Hi", "temperature": True}, "temperature"),
    ({"input": "Hi", "stream": "yes"}, "stream"),
    ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
    ({"input": "Hi", "background": True}, "background"),
    ({"input": "Hi", "parallel_tool_calls": False}, "parallel_tool_calls"),
    ({"input": "Hi", "truncation": "auto"}, "truncation"),
    ({"input": "Hi", "text": {"format": {"type": "json_schema"}}}, "text.format.type"),
    ({"input": "Hi", "include": ["message.output_text.logprobs"]}, "include"),
    ({"input": "Hi", "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
    ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"input": "Hi", "previous_response_id": "a", "conversation": "b"}, "conversation"),
    ({"input": "Hi", "metadata": {"a": 1}}, "metadata"),
    ({"input": "Hi", "colour": "red"}, "colour"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(client, body, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/responses", body=body, cast_to=object)
    assert refused.value.body["param"] == param
    assert refused.value.body["message"]


def test_other_errors_have_their_status(client, server):
    with pytest.raises(openai.NotFoundError, match="no response 'resp_x'") as refused:
        client.responses.create(input="Hi", previous_response_id="resp_x")
    assert refused.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served"):
        client.responses.create(model="gpt", input="Hi")
    assert http.post(f"{server.url}/responses", content=b"{").json()["error"]["code"] == "invalid_json"
    assert http.post(f"{server.url}/responses", content=b" " * (1 << 21)).status_code == 413
    assert http.get(f"{server.url}/nothing").json()["error"]["code"] == "unknown_route"
    assert http.put(f"{server.url}/responses").status_code == 405


@pytest.mark.parametrize(("headers", "status"), [
    ({"Origin": "http://elsewhere.example"}, 403),
    ({"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://proxied.example", "Sec-Fetch-Site": "same-origin"}, 200),
    ({}, 200),
])  # fmt: skip
def test_pages_of_other_sites_may_not_use_the_server(server, headers, status):
    assert http.post(f"{server.url}/responses", json={"input": "Hello."}, headers=headers).status_code == status
    assert http.get(f"{server.address}/", headers=headers).status_code == 200


def test_a_client_that_hangs_up_and_comes_back_at_once_finds_its_conversation(client, server, held, monkeypatch):
    monkeypatch.setattr(exchange, "_BUSY_SECONDS", PATIENT)
    conversation = client.conversations.create()
    one = client.responses.create(input="Hello.", conversation=conversation.id)
    held.hold(chunks=3)
    with httpx.Client(timeout=PATIENT) as leaving:
        body = {"input": "Compare.", "conversation": conversation.id, "stream": True}
        with leaving.stream("POST", f"{server.url}/responses", json=body) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: ") and '"response.created"' in line:
                    given_up = json.loads(line[6:])["response"]["id"]
                if "output_text.delta" in line:
                    break
    with ThreadPoolExecutor(1) as thread:
        back = thread.submit(client.responses.create, input="How is Porto?", conversation=conversation.id)
        until(lambda: server.service.running(given_up, "") is None)
        held.release()
        two = back.result()
    branch = client.responses.create(input="How is Porto?", previous_response_id=one.id)
    np.testing.assert_array_equal(memory_of(server, two), memory_of(server, branch))
    until(lambda: server.service.engine.busy_slots == 0)


def test_a_client_that_hangs_up_without_a_stream_frees_its_slot(client, server, held):
    held.hold()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/responses", json={"input": "Compare."}, timeout=httpx.Timeout(PATIENT, read=0.5))
    until(lambda: server.service.engine.busy_slots == server.service.engine.queue_length == 0)


def test_a_turn_can_be_cancelled(client, server, held):
    held.hold(chunks=2)
    stream = client.responses.create(input="Compare.", stream=True)
    created = next(iter(stream)).response
    with pytest.raises(openai.ConflictError, match="not complete yet"):
        client.responses.create(input="Hello.", previous_response_id=created.id)
    assert client.responses.cancel(created.id).status == "cancelled"
    *_, last = stream
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created.id)
    held.release()
    done = client.responses.create(input="Hello.")
    with pytest.raises(openai.BadRequestError, match="completed already"):
        client.responses.cancel(done.id)


def test_a_conversation_takes_one_turn_at_a_time(client, server, held):
    held.hold(chunks=1)
    conversation = client.conversations.create().id
    made = []

    def ask():
        try:
            made.append(client.responses.create(input="Compare.", conversation=conversation, max_output_tokens=30))
        except openai.ConflictError as error:
            made.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(made) == 2)
    assert made == ["conversation_busy"] * 2
    held.release()
    for thread in threads:
        thread.join()
    # The rejected ones have changed neither the lock nor the memory of the one that ran.
    (done,) = (each for each in made if not isinstance(each, str))
    content = http.get(f"{server.url}/conversations/{conversation}/memory").read()
    stands = server.service.memories.parse(content, source="it").values
    np.testing.assert_array_equal(stands, memory_of(server, done))
    assert not server.service.is_busy(conversation)


def test_memory_change_is_told_on_request(client, server):
    made = client.responses.create(input="Hello.", include=["memory.change"])
    change = np.array(made.memory_change)
    assert change.shape == (2, 4) and change.max() > 0
