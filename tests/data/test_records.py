"""Every record kind, the examples of docs/data.md, chat files, other names of fields, what is wrong with bad ones."""

import json
import re
import warnings
from pathlib import Path

import pytest

from rxt_jax.data.config import FaultPolicy, FileData
from rxt_jax.data.curriculum import read_curriculum
from rxt_jax.data.faults import ReadReport, RecordError
from rxt_jax.data.records import check_record, check_records, parse_json_lines, record_texts
from rxt_jax.data.sources import open_source

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = [
    (kind, line)
    for kind, block in re.findall(r"```json (\w+)\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
GOOD = {"query": "hello", "answer": "hi"}


@pytest.mark.parametrize(("kind", "line"), [each for each in EXAMPLES if each[0] != "curriculum"])
def test_the_documented_examples_are_read(kind, line):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, record),) = check_records([("here", json.loads(line))], kind)
    assert ("text" in record) if kind == "text" else record["interactions"]
    assert list(record_texts(record))


def test_every_kind_is_documented():
    kinds = {"episode", "interaction", "text", "conversation", "preference_episode", "preference_pair", "curriculum"}
    assert {kind for kind, _ in EXAMPLES} == kinds


def test_both_forms_of_an_episode_are_the_same():
    older = check_record(GOOD | {"id": 1, "interactions": [{"query": "a", "answer": "b"}]}, "here", "episode")
    assert older == {"id": 1, "interactions": [GOOD, {"query": "a", "answer": "b"}]}
    assert check_record(GOOD, "here", "episode") == {"interactions": [GOOD]}


def test_alternatives_have_one_name_each_and_null_means_memory_only():
    record = {"interactions": [{"query": "a", "accepted": "b", "rejected": None}]}
    (interaction,) = check_record(record, "here", "preference_episode")["interactions"]
    assert interaction == {"query": "a", "chosen": {"answer": "b"}, "rejected": None, "neutral": None}
    pair = check_record({"id": 3, "prompt": "a", "chosen": "b", "rejected": "c"}, "here", "preference_pair")
    assert pair["id"] == 3 and pair["interactions"][0]["rejected"] == {"answer": "c"}


def test_fields_of_other_names_on_every_level():
    fields = {"interactions": "turns", "query": "question", "accepted": "good", "answer": "text", "id": "key"}
    raw = {"key": 5, "turns": [{"question": "a", "good": {"text": "b"}, "rejected": {"text": "c"}}]}
    record = check_record(raw, "here", "preference_episode", fields)
    (interaction,) = record["interactions"]
    assert record["id"] == 5
    assert (interaction["query"], interaction["chosen"], interaction["rejected"]) == (
        "a",
        {"answer": "b"},
        {"answer": "c"},
    )
    with pytest.raises(ValueError, match="fields maps qury, which no record has"):
        list(check_records([], fields={"qury": "q"}))
    with pytest.raises(ValueError, match="two names to one"):
        list(check_records([], fields={"query": "q", "answer": "q"}))


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Rain in "}, {"type": "text", "text": "Gdansk and Oslo?"}]},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Look.",
        "tool_calls": [
            {"function": {"name": "weather", "arguments": '{"city": "Gdansk"}'}},
            {"function": {"name": "weather", "arguments": {"city": "Oslo"}}},
        ],
    },
    {"role": "tool", "content": "yes"},
    {"role": "tool", "content": "no"},
    {"role": "assistant", "content": "In Gdansk only."},
    {"role": "system", "content": "Now in French."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "De rien."},
]


def test_chat_messages_become_an_episode():
    record = check_record({"id": "c", "messages": CHAT}, "here", "conversation")
    calls = [{"tool": "weather", "city": "Gdansk"}, {"tool": "weather", "city": "Oslo"}]
    assert record == {
        "id": "c",
        "system": "Be brief.",
        "interactions": [
            {"query": "Rain in Gdansk and Oslo?", "think": "Look.", "tool_call": json.dumps(calls)},
            {"tool_use": "yes\nno", "answer": "In Gdansk only."},
            {"internal": "Now in French.", "query": "Thanks", "answer": "De rien."},
        ],
    }


@pytest.mark.parametrize(
    ("messages", "reason", "message"),
    [
        ("hello", "wrong_type", "field 'messages' must be a list"),
        ([], "empty_episode", "the episode is empty"),
        ([{"role": "robot", "content": "x"}], "bad_role", "message 0: field 'role' must be user"),
        ([CHAT[1], CHAT[1]], "role_order", "message 1: a user message follows one that has no reply"),
        ([CHAT[5]], "role_order", "message 0: the assistant speaks, but nothing was asked"),
        ([CHAT[1]], "missing_field", "the last message has no reply"),
        ([{"role": "user", "content": 3}], "wrong_type", "message 0: field 'content' must be text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "wrong_type", "a list of text parts"),
        ([CHAT[1], {"role": "assistant", "content": None}], "missing_field", "has neither 'answer' nor 'tool_call'"),
        (
            [CHAT[1], {"role": "assistant", "tool_calls": [{"name": "x", "arguments": "{"}]}],
            "bad_tool_call",
            "the arguments of 'x' are not valid JSON",
        ),
        (
            [CHAT[1], {"role": "assistant", "tool_calls": [{"name": "x", "arguments": {"tool": 1}}]}],
            "bad_tool_call",
            "without the key 'tool'",
        ),
    ],
)
def test_chat_messages_that_do_not_fit_are_named(messages, reason, message):
    with pytest.raises(RecordError, match=re.escape(message)) as caught:
        check_record({"messages": messages}, "here", "conversation")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("kind", "record", "reason", "field"),
    [
        ("text", {"text": ""}, "missing_field", "text"),
        ("text", {"text": 3}, "wrong_type", "text"),
        ("interaction", {"answer": "x"}, "missing_field", "query"),
        ("episode", {"steps": 2, "interactions": [GOOD, GOOD]}, "too_few_interactions", "steps"),
        ("episode", {"steps": "2", "interactions": [GOOD]}, "wrong_type", "steps"),
        ("episode", {"is_long_range": 1, "interactions": [GOOD]}, "wrong_type", "is_long_range"),
        ("episode", {"system": 1, "interactions": [GOOD]}, "wrong_type", "system"),
        ("episode", {"interactions": [GOOD | {"recall": "x"}]}, "wrong_type", "recall"),
        *(
            (
                "episode",
                {"interactions": [GOOD | {"recall": [{"value": "Tom", "distance": 1} | wrong]}]},
                kind,
                "recall",
            )
            for kind, wrong in (
                ("wrong_type", {"value": None}),
                ("wrong_type", {"value": " "}),
                ("wrong_type", {"value": ["Tom"]}),
                ("wrong_type", {"distance": None}),
                ("wrong_type", {"distance": 0}),
                ("wrong_type", {"distance": "one"}),
                ("wrong_type", {"candidates": "x"}),
                ("wrong_type", {"outdated": "xy"}),
            )
        ),
        ("episode", {"id": 1.5, "interactions": [GOOD]}, "wrong_type", "id"),
        ("preference_episode", {"interactions": [{"query": "a", "accepted": None}]}, "missing_field", "accepted"),
        ("preference_episode", {"interactions": [{"query": "a", "accepted": {}}]}, "missing_field", "answer"),
        ("preference_episode", {"interactions": [{"query": "a", "accepted": 3}]}, "wrong_type", "accepted"),
        ("preference_episode", {"interactions": [{"query": "a", "chosen": 3}]}, "wrong_type", "chosen"),
        ("preference_pair", {"prompt": "a", "accepted": 3, "rejected": "c"}, "wrong_type", "accepted"),
        ("preference_pair", {"prompt": "a", "chosen": "b"}, "missing_field", "rejected"),
    ],
)
def test_what_is_wrong_with_a_record(kind, record, reason, field):
    with pytest.raises(RecordError, match=r"^here") as caught:
        list(check_records([("here", record)], kind))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_unknown_fields_are_counted_and_warned_about_once():
    report, raw = ReadReport(), {"interactions": [GOOD | {"colour": "red"}], "shape": 1}
    with pytest.warns(UserWarning) as caught:
        records = list(check_records([("line 1", raw), ("line 2", raw)], report=report))
    assert [str(each.message)[:6] for each in caught] == ["line 1", "line 1"]
    assert report.unknown_fields == {"colour": 2, "shape": 2}
    assert records[0][1]["interactions"][0]["colour"] == "red"


def test_accounts_of_several_sources_add_up():
    faults = FaultPolicy(mode="tolerant", max_rate=1.0)
    reports = [ReadReport(), ReadReport()]
    for report in reports:
        list(check_records([("1", {}), ("2", GOOD)], faults=faults, report=report, quarantine=Path("/dev/null")))
    reports[1].drop("too long")
    total = ReadReport.joined(reports)
    total.check()
    assert total.summary() == (
        "4 records read = 1 used + 1 (too long: 1) dropped by policy + 2 (missing_field: 2) quarantined"
    )
    total.read += 1
    with pytest.raises(AssertionError, match="records got lost"):
        total.check()


def test_text_files_and_interactions_are_sources(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n")
    texts = open_source(FileData(path=str(tmp_path / "a.txt"), kind="text"))
    assert sorted(texts.text(number) for number in range(2)) == ["one", "two"]
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    source = open_source(FileData(path=str(tmp_path / "a.jsonl"), kind="interaction"))
    assert source.episode(0) == {"interactions": [GOOD]}


def test_curriculum_containers(tmp_path):
    for name in ("steps-8", "steps-4", "steps-8-lr", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "steps-4" / "validation.jsonl").write_text(json.dumps(GOOD) + "\n")
    curriculum = read_curriculum(tmp_path)
    assert [(entry.steps, entry.is_long_range) for entry in curriculum] == [(4, False), (8, False), (8, True)]
    assert len(curriculum) == 3 and curriculum[0].max_interactions == 5
    found = curriculum(8, True)
    assert found is not None and found.dataset.path.endswith("steps-8-lr/train.jsonl") and found.eval_dataset is None
    assert curriculum(4).eval_dataset is not None and curriculum(16) is None
    assert open_source(curriculum[0].dataset).size == 1
    (listed,) = [line for kind, line in EXAMPLES if kind == "curriculum"]
    (tmp_path / "list.json").write_text(listed)
    assert [entry.max_interactions for entry in read_curriculum(tmp_path / "list.json")] == [5, 9]
    for content, field in (('[{"steps": 0}]', "steps"), ('[{"steps": 4}]', "dataset"), ("3", None), ("[]", None)):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(RecordError, match=r"bad\.json") as caught:
            read_curriculum(tmp_path / "bad.json")
        assert caught.value.field == field
    with pytest.raises(FileNotFoundError, match="steps-8-lr"):
        read_curriculum(tmp_path / "nowhere")


def test_a_field_that_is_there_twice_is_an_error_and_a_byte_order_mark_is_none():
    line = b'{"query": "a", "answer": "b", "answer": "c"}'
    ((_, found),) = parse_json_lines([line], "file")
    assert isinstance(found, RecordError)
    assert "file, line 1: field 'answer' is there twice" in str(found)
    ((_, found),) = parse_json_lines([b'\xef\xbb\xbf{"text": "a"}'], "file")
    assert found == {"text": "a"}
