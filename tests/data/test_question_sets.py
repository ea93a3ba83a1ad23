"""Stories and chats of several sessions become episodes that ask for what was told; what is wrong is named by place."""

import json

import pytest

from rxt_jax.data.config import FaultPolicy, FileData
from rxt_jax.data.faults import RecordError
from rxt_jax.data.hand_typed import holds_typed_conversations
from rxt_jax.data.readers import files_fingerprint
from rxt_jax.data.sources import open_source

STORIES = """1 Ann went to the attic.
2 Ben went to the cellar.
3 Where is Ann? \tattic\t1
4 Ann took the lamp.
5 Ann took the rope.
6 Where is the lamp?\tattic\t4 1
7 What does Ann carry?\tlamp,rope\t4 5

1 The box is red.
2 Is the box red?\tyes
"""

QUESTION = {
    "question_id": "q1",
    "question_type": "single-session-user",
    "question": "How many hens do I have?",
    "question_date": "2023/05/30",
    "answer": 7,
    "haystack_session_ids": ["s1", "s2"],
    "haystack_dates": ["2023/05/20", "2023/05/21"],
    "haystack_sessions": [
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}],
        [
            {"role": "assistant", "content": "Back again?"},
            {"role": "user", "content": "Yes."},
            {"role": "user", "content": "I have seven hens, 7.", "has_answer": True},
            {"role": "assistant", "content": "Nice."},
            {"role": "user", "content": "Bye."},
        ],
    ],
    "answer_session_ids": ["s2"],
}

TALK = {
    "sample_id": "c1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Ben",
        "session_2_date_time": "9 May",
        "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "I sold it."}],
        "session_10": [{"speaker": "Ann", "dia_id": "D10:1", "text": "Who?", "blip_caption": "a boat"}],
    },
    "qa": [
        {"question": "What did Ben sell?", "answer": "the boat", "evidence": ["D2:1; D10:1"], "category": 1},
        {"question": "Who sank?", "adversarial_answer": "Ben", "evidence": [], "category": 5},
        {"question": "When?", "answer": "in May", "evidence": ["D"], "category": 2},
    ],
}


def episodes_of(path, **options):
    source = open_source(FileData(path=path, **options))
    assert source.size is not None
    return [source.episode(number) for number in range(source.size)]


def distances(episode):
    return [
        (turn, each["value"], each["distance"])
        for turn, interaction in enumerate(episode["interactions"])
        for each in interaction.get("recall", ())
    ]


def write_stories(folder, text=STORIES, name="qa1_test.txt"):
    (folder / name).write_text(text, encoding="utf-8")
    return f"babi:{folder / name}"


def write_sessions(folder, *records):
    (folder / "sessions.json").write_text(json.dumps(records), encoding="utf-8")
    return f"sessions:{folder / 'sessions.json'}"


def test_stories_are_told_line_by_line_and_asked_where_they_ask(tmp_path):
    first, second = episodes_of(write_stories(tmp_path))
    assert [each["query"] for each in first["interactions"]] == [
        "Ann went to the attic.",
        "Ben went to the cellar.",
        "Where is Ann?",
        "Ann took the lamp.",
        "Ann took the rope.",
        "Where is the lamp?",
        "What does Ann carry?",
    ]
    intents = ["state", "state", "recall", "state", "state", "recall", "recall"]
    assert first["interactions"][0]["answer"] == "Noted: Ann went to the attic."
    assert [each["intent"] for each in first["interactions"]] == intents
    # The earliest line that an answer needs counts; no line is named in the second story.
    assert distances(first) == [(2, "attic", 2), (5, "attic", 5), (6, "lamp", 3), (6, "rope", 3)]
    assert distances(second) == [(1, "yes", 1)]
    assert first["interactions"][6]["answer"] == "lamp, rope"
    assert {each["type"] for turn in (2, 5) for each in first["interactions"][turn]["recall"]} == {"qa1_test"}


def test_a_folder_of_stories_is_read_by_name(tmp_path):
    write_stories(tmp_path, name="qa2.txt")
    write_stories(tmp_path, "1 It rains.\n2 Does it rain?\tyes\t1\n", name="qa1.txt")
    assert [each["id"] for each in episodes_of(f"babi:{tmp_path}")] == ["qa1-0", "qa2-0", "qa2-1"]
    assert len(episodes_of(f"babi:{tmp_path}/*2.txt")) == 2
    assert files_fingerprint(f"babi:{tmp_path}") != files_fingerprint(f"babi:{tmp_path}/qa2.txt")
    assert not holds_typed_conversations(f"babi:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("1 It rains.\nDoes it?\tyes\t1\n", "line 2", "expected a number, a space and a text"),
        ("2 It rains.\n", "line 1", "count up from 1, got 2"),
        ("1 It rains.\n\n3 Does it?\t \t1\n", "line 3", "no answer between its tabs"),
        ("1 Does it?\tyes\t\n", "line 1", "begins with a question"),
        ("1 It rains.\n2 Does it?\tyes\t1 9\n", "line 2", "needs line '9'"),
    ],
)
def test_a_story_that_is_none_is_named_by_line(tmp_path, text, place, message):
    path = write_stories(tmp_path, text)
    with pytest.raises(RecordError, match=rf"qa1_test\.txt, {place}: .*{message}"):
        open_source(FileData(path=path))


def test_tolerant_reading_loses_the_bad_story_alone(tmp_path):
    path = write_stories(tmp_path, f"1 It rains.\nDoes it?\n{STORIES}")
    faults = FaultPolicy(mode="tolerant", max_rate=0.5, quarantine=str(tmp_path / "bad.jsonl"))
    assert [each["id"] for each in episodes_of(path, faults=faults)] == ["qa1_test-1", "qa1_test-2"]


def test_sessions_of_one_question_are_one_conversation(tmp_path):
    absent = QUESTION | {"question_id": "q2_abs", "answer": "You did not say."}
    session = QUESTION | {"question_id": "q3", "haystack_sessions": [QUESTION["haystack_sessions"][0], []]}
    first, second, third = episodes_of(write_sessions(tmp_path, QUESTION, absent, session))
    assert [(each["query"], each["answer"]) for each in first["interactions"]] == [
        ("(2023/05/20) Hi.", "Hello."),
        ("(2023/05/21) Hello.", "Back again?"),
        ("Yes.\nI have seven hens, 7.", "Nice."),
        ("Bye.", "Noted: Bye."),
        ("(2023/05/30) How many hens do I have?", "7"),
    ]
    assert distances(first) == [(4, "7", 2)]
    assert first["interactions"][4]["recall"][0]["type"] == "single-session-user"
    assert second["interactions"][4]["intent"] == "absence" and not distances(second)
    # No message is marked, and the session that has the answer is empty.
    assert distances(third) == [(1, "7", 1)]


def test_questions_about_a_conversation_stand_behind_all_its_sessions(tmp_path):
    (episode,) = episodes_of(write_sessions(tmp_path, TALK))
    assert [(each["query"], each["answer"]) for each in episode["interactions"]] == [
        ("(9 May) Hello.", "Ben: I sold it."),
        ("Ann: Who? (a picture: a boat)", "Noted: Ann: Who? (a picture: a boat)"),
        ("What did Ben sell?", "the boat"),
        ("Who sank?", "That was not mentioned."),
        ("When?", "in May"),
    ]
    assert distances(episode) == [(2, "the boat", 2), (4, "in May", 4)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"turns": []}, "record 0: expected an object with 'haystack_sessions'"),
        (QUESTION | {"answer": None}, "field 'answer' must be text or a number, got nothing"),
        (QUESTION | {"haystack_session_ids": ["s1"]}, "names 1 sessions, but there are 2"),
        (QUESTION | {"haystack_sessions": [[{"role": "tool", "content": "x"}], []]}, "session 0, message 0: .*'tool'"),
        (QUESTION | {"haystack_sessions": [["Hi."], []]}, "message 0: a message must be an object, got str"),
        (TALK | {"conversation": {"speaker_a": "Ann"}}, "nothing is said in any session"),
        (TALK | {"qa": {}}, "field 'qa' must be a list, got dict"),
    ],
)  # fmt: skip
def test_sessions_that_are_none_are_named_by_record_and_field(tmp_path, record, message):
    with pytest.raises(RecordError, match=message):
        open_source(FileData(path=write_sessions(tmp_path, record)))


def test_files_that_are_not_there_or_not_json_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected babi:FILE, babi:FOLDER or babi:GLOB"):
        open_source(FileData(path="babi:nowhere.txt"))
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(RecordError, match=r"a\.json: expected a list of records, got dict"):
        open_source(FileData(path=f"sessions:{tmp_path}"))
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(RecordError, match=r"a\.json: not valid JSON"):
        open_source(FileData(path=f"sessions:{tmp_path}"))
