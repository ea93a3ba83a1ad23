"""What was said and answered can be read back, page by page, and nothing else can be done with it."""

import sqlite3

import openai
import pytest
from loopback import http

from rxt_jax.server.index import Commit, Index


def texts(items):
    return [
        item.content[0].text if item.type == "message" else getattr(item, "output", None) or item.type for item in items
    ]


@pytest.fixture(scope="module")
def conversation(server):
    """A conversation with thoughts, a tool call and its result, a turn that is not stored, and a history."""
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
    identity = client.conversations.create().id
    client.responses.create(input="Hello.", conversation=identity)
    client.responses.create(input="Two and two?", reasoning={"effort": "high"}, conversation=identity)
    client.responses.create(input="Hello.", conversation=identity, store=False)
    called = client.responses.create(input="How is Porto?", tool_choice="required", conversation=identity).output[0]
    given = {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"}
    client.responses.create(input=[given], conversation=identity)
    return identity


SAID = ["Hello.", "Hello you.", "Two and two?", "reasoning", "Four.", "How is Porto?", "function_call", "sunny",
        "It is sunny."]  # fmt: skip


def test_items_of_a_conversation_are_those_of_its_stored_turns(client, conversation):
    items = list(client.conversations.items.list(conversation, order="asc", limit=100))
    assert texts(items) == SAID
    assert {item.status for item in items if hasattr(item, "status")} == {"completed"}
    assert [item.role for item in items if item.type == "message"] == ["user", "assistant"] * 2 + ["user", "assistant"]
    assert len({item.id for item in items}) == len(items)
    assert client.conversations.items.retrieve(items[4].id, conversation_id=conversation) == items[4]


def test_pages_follow_one_another(client, conversation, server):
    assert texts(client.conversations.items.list(conversation).data) == SAID[::-1]
    pages = list(client.conversations.items.list(conversation, limit=2).iter_pages())
    assert [len(page.data) for page in pages] == [2, 2, 2, 2, 1]
    assert [text for page in pages for text in texts(page.data)] == SAID[::-1]
    assert [page.has_more for page in pages] == [True, True, True, True, False]
    empty = client.conversations.create().id
    page = http.get(f"{server.url}/conversations/{empty}/items").json()
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_input_items_have_pages_too(client):
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello you."}]
    made = client.responses.create(input=[*history, {"role": "user", "content": "Give it a title."}])
    read = list(client.responses.input_items.list(made.id, order="asc", limit=1))
    assert texts(read) == ["Hello.", "Hello you.", "Give it a title."]
    assert [item.content[0].type for item in read] == ["input_text", "output_text", "input_text"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"order": "random"}, "order"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "two"}, "limit"),
        ({"include": "reasoning.encrypted_content"}, "include"),
        ({"include[]": "reasoning.encrypted_content"}, "include"),
        ({"before": "x"}, "before"),
    ],
)
def test_a_page_that_cannot_be_given_is_refused_by_name(server, conversation, query, param):
    refused = http.get(f"{server.url}/conversations/{conversation}/items", params=query)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_items_are_neither_added_nor_taken_away(client, conversation):
    one = client.conversations.items.list(conversation).data[0]
    with pytest.raises(openai.BadRequestError, match="send them as the input"):
        client.conversations.items.create(conversation, items=[{"role": "user", "content": "Hello."}])
    with pytest.raises(openai.BadRequestError, match="memory has no parts"):
        client.conversations.items.delete(one.id, conversation_id=conversation)
    for missing in (
        lambda: client.conversations.items.retrieve("msg_x", conversation_id=conversation),
        lambda: client.conversations.items.list(conversation, after="msg_x"),
        lambda: client.conversations.items.list("conv_x"),
    ):
        with pytest.raises(openai.NotFoundError):
            missing()
    assert len(client.conversations.items.list(conversation).data) == len(SAID)


def test_an_index_of_an_earlier_version_is_taken_over(tmp_path):
    with sqlite3.connect(tmp_path / "index.sqlite") as old:
        old.execute(
            "CREATE TABLE responses (id TEXT PRIMARY KEY, owner TEXT, memory TEXT, created REAL, body TEXT, input TEXT)"
        )
        old.execute("INSERT INTO responses VALUES ('resp_a', '', NULL, 1.0, '{}', '[]')")
    old.close()
    for _ in range(2):  # the second time nothing is left to do
        index = Index(tmp_path / "index.sqlite")
        assert index.response("resp_a", "").body == {}
        index.close()
    index = Index(tmp_path / "index.sqlite")
    index.create_conversation("conv", "", 2.0, {})
    for number in range(2):
        before = f"m{number - 1}" if number else None
        index.commit(Commit(owner="", time=2.0, memory=f"m{number}", response=f"resp_{number}", body={}, input=[],
                            conversation="conv", conversation_memory=before))  # fmt: skip
    assert [each.id for each in index.responses("conv", "")] == ["resp_0", "resp_1"]
    assert index.responses("conv", "another key") == []
    index.close()
