"""Whatever a client sends is understood or refused by name; what is read back from ids is what was written."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import dialogue_tokenizer

from rxt_jax.data.template import answer_ids
from rxt_jax.model import SamplingConfig
from rxt_jax.server.access import Access, read_keys
from rxt_jax.server.create_chat import read_create_chat
from rxt_jax.server.create_response import read_create_response
from rxt_jax.server.errors import ApiError
from rxt_jax.server.fields import parse_body
from rxt_jax.server.reply_items import ReplyItems, parse_calls
from rxt_jax.server.rows import MemoryState, turn_rows
from rxt_jax.server.spoken import messages_to_spoken

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DEFAULTS = {"model": "m", "sampling": SamplingConfig(), "mode": "fast"}
PIECES = st.sampled_from([
    "user", "assistant", "tool", "system", "function", "message", "function_call", "function_call_output", "reasoning",
    "input_text", "text", "required", "auto", "high", "m", "", "x",
])  # fmt: skip
NAMES = st.sampled_from([
    "type", "role", "content", "text", "name", "arguments", "call_id", "output", "id", "function", "tool_calls",
    "tool_call_id", "parameters", "description", "effort", "summary", "format", "x",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | PIECES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
FIELDS = st.sampled_from([
    "input", "messages", "instructions", "tools", "tool_choice", "reasoning", "text", "conversation", "metadata",
    "stream", "temperature", "top_p", "seed", "include", "stream_options", "response_format", "stop", "n",
    "max_tokens", "store", "max_output_tokens", "previous_response_id", "model", "truncation", "x",
])  # fmt: skip
BODIES = st.dictionaries(FIELDS, VALUES, max_size=4)


@UNHURRIED
@given(BODIES)
def test_any_body_is_understood_or_refused(body):
    responses, chat = {"input": "Hi"} | body, {"messages": [{"role": "user", "content": "Hi"}]} | body
    for read, given_, place in ((read_create_response, responses, "input"), (read_create_chat, chat, "messages")):
        try:
            request = read(given_, **DEFAULTS)
            spoken = messages_to_spoken(request.messages, place)
        except ApiError as error:
            assert 400 <= error.status < 500 and error.message
        else:
            assert spoken.open_.get("query") or spoken.open_.get("tool_use")


@UNHURRIED
@given(st.binary(max_size=20))
def test_any_bytes_are_an_object_or_refused(content):
    try:
        assert dict(parse_body(content)) is not None
    except ApiError as error:
        assert error.code == "invalid_json"


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": NaN}', b'{"a": "\\ud800"}', b"[]", b'"x"'])
def test_what_is_no_json_object_is_refused(content):
    with pytest.raises(ApiError):
        parse_body(content)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


@UNHURRIED
@given(st.fixed_dictionaries({"answer": TEXTS}, optional={"think": TEXTS, "tool_call": TEXTS}), st.data())
def test_events_add_up_to_the_items(reply, data):
    tokenizer = dialogue_tokenizer()
    ids = answer_ids(reply, tokenizer.encode, tokenizer.special)
    items, events = ReplyItems(tokenizer, "x"), []
    while ids:
        count = data.draw(st.integers(1, len(ids)))
        events += items.push(ids[:count])
        ids = ids[count:]
    events += items.close()
    text = {kind: "".join(fields["delta"] for name, fields in events if name == f"response.{kind}.delta")
            for kind in ("output_text", "reasoning_text")}  # fmt: skip
    assert text == {"output_text": reply["answer"], "reasoning_text": reply.get("think", "")}
    done = [fields["item"] for name, fields in events if name == "response.output_item.done"]
    added = [fields["item"]["id"] for name, fields in events if name == "response.output_item.added"]
    assert done == items.items and added == [item["id"] for item in done]
    assert [item["type"] for item in done if item["type"] != "function_call"] == (
        ["reasoning", "message"] if "think" in reply else ["message"]
    )
    assert ("tool_call" in reply) == bool(items.calls)


def test_calls_are_read_or_kept_as_they_are():
    assert parse_calls('{"tool": "look", "at": "Porto"}') == [("look", '{"at": "Porto"}')]
    for text in ("[]", "{}", "null", '{"tool": 3}', '[{"tool": "a"}, 3]', "look!"):
        assert parse_calls(text) == [("invalid_tool_call", text)]


def rows(messages, state=None, tools=(), **more):
    settings = {"is_new": state is None, "tokenizer": dialogue_tokenizer(), "max_length": 200, "place": "input"}
    return turn_rows(messages_to_spoken(messages, "input"), tools, state or MemoryState(), **(settings | more))


def test_instructions_and_tools_are_written_once():
    told = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    tool = {"type": "function", "name": "look", "description": None, "parameters": None}
    first = rows(told, tools=[tool])
    assert [len(each) > 0 for each in first.preface] == [True, True]
    assert first.read_tokens == sum(map(len, first.preface)) + len(first.prompt)
    again = rows(told, first.state, tools=[tool])
    assert again.preface == () and again.prompt == first.prompt and again.state == first.state
    silent = rows(told[1:], first.state)
    assert silent.prompt == first.prompt and silent.state == first.state
    other = rows([{"role": "system", "content": "Be rude."}, *told[1:]], first.state, tools=[tool | {"name": "see"}])
    special = dialogue_tokenizer().special
    assert other.prompt[1] == special.internal and len(other.preface) == 1
    with pytest.raises(ApiError, match="tool 'look' is"):
        rows(told[1:], tools=[tool], max_length=8)


def test_keys_are_read_by_line(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# who may\n\nann k1\nbob k2\n")
    access = Access(read_keys(file))
    assert (access.owner("Bearer k1"), access.owner("bearer k2 ")) == ("ann", "bob")
    for wrong in (None, "", "k1", "Bearer", "Bearer k3", "Basic k1"):
        with pytest.raises(ApiError):
            access.owner(wrong)
    for text, message in (
        ("ann\n", "line 1: expected NAME KEY"),
        ("a k\nb k\n", "line 2: the key of b"),
        ("", "no keys"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_keys(file)


def test_equal_histories_have_equal_digests_however_they_are_written():
    from rxt_jax.server.chat_api import _digests

    def digests(call):
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": call.get("content"), **call}]
        return _digests(messages, [])

    call = {"id": "a", "function": {"name": "look", "arguments": json.dumps({"at": 1})}}
    one, two = (
        digests({"content": text, "tool_calls": [call | {"id": name}]}) for text, name in (("", "a"), (None, "b"))
    )
    assert one == two and [ends for _, ends in one] == [False, True]
    assert digests({"content": "Ho"})[0] == one[0] and digests({"content": "Ho"})[1] != one[1]
