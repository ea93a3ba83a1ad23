"""LangChain's own client: chains by response id and a tool loop, streamed and not."""

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def look(at: str) -> str:
    """Look."""
    return {"Porto": "rain", "Rome": "snow"}[at]


def model(server, **options):
    return ChatOpenAI(model="parrot", base_url=server.url, api_key="none", max_retries=0, **options)


def chained(server):
    return model(server, use_responses_api=True, use_previous_response_id=True)


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_loop_by_response_id(server, streams):
    calling = chained(server).bind_tools([look])
    messages, sent = [HumanMessage("How is Porto?")], []
    for _ in range(4):
        if streams:
            reply = None
            for chunk in calling.stream(messages):
                reply = chunk if reply is None else reply + chunk
        else:
            reply = calling.invoke(messages)
        messages.append(reply)
        sent.append(server.service.index.response(reply.response_metadata["id"], ""))
        if not reply.tool_calls:
            break
        messages += [ToolMessage(look.invoke(call["args"]), tool_call_id=call["id"]) for call in reply.tool_calls]
    assert reply.text == "Snow in Rome."
    assert len(sent) == 3
    # Only what is new was sent: memory has the rest.
    assert [len(each.input) for each in sent] == [1, 1, 1]
    assert sent[2].body["previous_response_id"] == sent[1].id


def test_chat_completions_with_a_history(server):
    chat = model(server)
    first = chat.invoke([HumanMessage("Hello.")])
    assert first.content == "Hello you."
    second = chat.invoke([HumanMessage("Hello."), first, HumanMessage("Give it a title.")])
    assert second.content == "A chat."
    assert second.usage_metadata["input_token_details"]["cache_read"] == first.usage_metadata["total_tokens"]
