"""The packaged conversations keep the promises of docs/data.md, and a bad record is named."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from rxt_jax.data.faults import RecordError
from rxt_jax.data.hand_typed import holds_typed_conversations, read_typed_conversations
from rxt_jax.evaluation.hand_typed import wrong_values
from rxt_jax.evaluation.outcome import abstains, judge
from rxt_jax.evaluation.recall import contains_value

CONVERSATIONS = read_typed_conversations()
SCORED = [(each, turn) for each in CONVERSATIONS for turn in each.turns if turn.scored]
DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_there_are_enough_of_all_kinds():
    absent = sum(turn.absent for _, turn in SCORED)
    assert len(CONVERSATIONS) >= 160
    assert len(SCORED) >= 320
    assert 0.12 <= absent / len(SCORED) <= 0.18
    assert len({each.habit for each in CONVERSATIONS}) >= 20
    assert sum(10 <= len(each.turns) <= 14 for each in CONVERSATIONS) >= 8


def test_every_conversation_is_one_that_a_person_would_type():
    for each in CONVERSATIONS:
        assert 3 <= len(each.turns) <= 14, each.id
        assert any(turn.scored for turn in each.turns), each.id
        assert not each.turns[0].scored, each.id
        for turn in each.turns:
            assert len(turn.user.split()) <= 25, (each.id, turn.user)
            assert turn.user == turn.user.strip(), (each.id, turn.user)


def test_a_right_answer_was_typed_before_the_question():
    for each in CONVERSATIONS:
        for number, turn in enumerate(each.turns):
            before = [earlier.user for earlier in each.turns[:number]]
            typed = [any(contains_value(text, value) for text in before) for value in turn.expect]
            assert any(typed) or turn.absent or not turn.scored, (each.id, turn)


def test_wrong_values_were_typed_and_right_answers_are_judged_right():
    for each, turn in SCORED:
        typed = [contains_value(other.user, value) for other in each.turns for value in turn.wrong or ()]
        assert any(typed) or not turn.wrong, (each.id, turn)
        for value in turn.expect:
            assert judge(value, turn.expect, wrong_values(each, turn)) == "right", (each.id, turn, value)
            assert not abstains(value), (each.id, turn, value)


def test_nothing_is_there_twice():
    texts = Counter(tuple(turn.user for turn in each.turns) for each in CONVERSATIONS)
    assert max(texts.values()) == 1
    openings = Counter(each.turns[0].user.casefold() for each in CONVERSATIONS)
    assert [text for text, count in openings.items() if count > 1] == []


def test_the_documented_example_is_read(tmp_path):
    (block,) = re.findall(r"```json\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    file = tmp_path / "mine.jsonl"
    file.write_text(block)
    assert holds_typed_conversations(str(file))
    (found,) = read_typed_conversations(str(file))
    assert [turn.scored for turn in found.turns] == [False, False, True, True]
    assert found.turns[2].expect and found.turns[3].absent


def test_episodes_are_not_taken_for_typed_conversations(tmp_path):
    file = tmp_path / "episodes.jsonl"
    file.write_text(json.dumps({"interactions": [{"query": "a", "answer": "b"}]}))
    assert not holds_typed_conversations(str(file))
    assert holds_typed_conversations("hand_typed")


GOOD = {"id": "a", "habit": "plain", "turns": [{"user": "I am Ana."}, {"user": "Who am I?", "expect": ["Ana"]}]}


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"turns": []}, "field 'turns' must be a list of at least one turn, got []", "turns"),
        ({"turns": ["hi"]}, "turn 0: expected an object with 'user', got str", None),
        ({"turns": [{"user": " "}]}, "turn 0: field 'user' must be text that is not empty, got ' '", "user"),
        ({"turns": [{"expect": ["x"]}]}, "turn 0: field 'user' is missing; expected text", "user"),
        ({"turns": [{"user": "a", "expect": "x"}]}, "field 'expect' must be a list of texts, got 'x'", "expect"),
        ({"turns": [{"user": "a", "expect": []}]}, "field 'expect' must be a list of at least one text", "expect"),
        ({"turns": [{"user": "a", "absent": 1}]}, "field 'absent' must be true or false, got 1", "absent"),
        ({"turns": [{"user": "a", "expect": ["x"], "absent": True}]}, "both 'expect' and 'absent'", "absent"),
        ({"turns": [{"user": "a", "wrong": ["x"]}]}, "'wrong' needs a question", "expect"),
        ({"turns": [{"user": "a", "expect": ["..."]}]}, "a list of texts with a letter or a digit", "expect"),
        ({"turns": [{"user": "a", "expect": ["Rex"], "wrong": ["rex"]}]}, "in 'expect' and in 'wrong'", "wrong"),
        ({"turns": [{"user": "a", "expects": ["x"]}]}, "turn 0: unknown field 'expects'; known are absent", "expects"),
        ({"habit": None}, "field 'habit' must be text that is not empty, got None", "habit"),
        ({}, "the id 'a' was used before in this file", "id"),
    ],
)
def test_a_bad_conversation_is_named_by_file_line_turn_and_field(tmp_path, change, message, field):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(RecordError, match=r"mine\.jsonl, line 2") as caught:
        read_typed_conversations(str(file))
    assert message in str(caught.value)
    assert caught.value.field == field


def test_a_file_without_records_is_an_error(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(RecordError, match="expected one conversation per line"):
        read_typed_conversations(str(tmp_path / "none.jsonl"))
    (tmp_path / "small_talk.jsonl").write_text(json.dumps(GOOD | {"turns": [{"user": "Hello!"}]}))
    with pytest.raises(RecordError, match=r"small_talk\.jsonl.* asks nothing"):
        read_typed_conversations(str(tmp_path / "small_talk.jsonl"))
