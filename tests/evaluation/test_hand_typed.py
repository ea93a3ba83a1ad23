"""Typed conversations are answered in batches as one by one, scored, counted by habit, and written for people."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from small import dialogue_tokenizer, small_config, small_model

from rxt_jax.data.hand_typed import TypedConversation, TypedTurn
from rxt_jax.evaluation.free_conversations import _padded, _turn, answer_freely
from rxt_jax.evaluation.hand_typed import HandTypedReport, evaluate_hand_typed, score_turns, wrong_values
from rxt_jax.serving import Answer, ChatSession

LENGTH = 24
TYPED = [
    ["my cat is Tom", "hello", "What is my cat's name?", "and my dog?"],
    ["I live in Oslo."],
    ["hi", "no"],
    ["good day", "word " * 40, "My house number is 12.", "What is my house number?", "thanks"],
]


def tiny():
    tokenizer = dialogue_tokenizer()
    return small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=LENGTH)), tokenizer


def one_by_one(model, tokenizer, zeroed):
    answers = []
    for messages in TYPED:
        session = ChatSession(model, tokenizer, max_length=LENGTH)
        answers.append([])
        for message in messages:
            if zeroed:
                session.memory = jnp.zeros_like(session.memory)
            try:
                answers[-1].append(session.answer(message).strip())
            except ValueError as error:
                assert "nothing was written to memory" in str(error)
                answers[-1].append(None)
    return answers


@pytest.mark.parametrize("zeroed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_batch_answers_what_single_conversations_answer(zeroed):
    model, tokenizer = tiny()
    expected = one_by_one(model, tokenizer, zeroed)
    assert expected[3][1] is None
    assert len({text for each in expected for text in each}) > 3  # a model that always says the same proves nothing
    for batch_size in (3, 64):
        found = answer_freely(model, tokenizer, TYPED, max_length=LENGTH, batch_size=batch_size, zeroed=zeroed)
        assert found == expected


def test_filler_makes_no_reply_and_is_not_written():
    model, tokenizer = tiny()
    prompt = [tokenizer.special.bos, tokenizer.special.query, *tokenizer.encode("hello")]
    ids, mask = _padded([prompt, None], tokenizer.special.pad, 3, 16)
    assert mask.sum(axis=1).tolist() == [len(prompt), 0, 0]
    memory = jnp.repeat(model.initial_memory(1), 3, axis=1)
    (_, reply_mask, _), written = _turn(*nnx.split(model), memory, ids, mask, tokenizer.special, LENGTH)
    assert reply_mask[0].any() and not reply_mask[1:].any()
    np.testing.assert_array_equal(written[:, 1:], memory[:, 1:])
    assert float(jnp.abs(written[:, 0] - memory[:, 0]).max()) > 1e-4


CONVERSATION = TypedConversation(
    "t1",
    "pets",
    (
        TypedTurn("my dogs are Bruno and Anna Maria, anna maria is 5"),
        TypedTurn("my cat is Miso"),
        TypedTurn("Which dog is 5?", ("Anna Maria", "Anna")),
        TypedTurn("My cat?", ("Miso",)),
        TypedTurn("My other dog, not Miso?", ("Bruno",), ("Anna Maria",)),
        TypedTurn("My horse?", absent=True),
    ),
)
ASKED = CONVERSATION.turns[2:]


def test_other_values_of_the_conversation_are_wrong_unless_the_question_names_them():
    dog, cat, other, horse = (wrong_values(CONVERSATION, turn) for turn in ASKED)
    assert dog == ["Miso", "Bruno"]
    assert cat == ["Anna Maria", "Anna", "Bruno"]
    assert other == ["Anna Maria"]
    assert horse == ["Anna Maria", "Anna", "Miso", "Bruno"]


def test_values_that_are_spellings_of_the_right_one_are_not_wrong():
    turns = (TypedTurn("at 7 pm?", ("7 pm", "7pm")), TypedTurn("when?", ("7pm", "seven")), TypedTurn("who?", ("Ada",)))
    assert wrong_values(TypedConversation("t", "times", turns), turns[1]) == ["Ada"]


@pytest.mark.parametrize(
    ("answers", "outcomes"),
    [
        (["Anna", "It is Miso.", "Bruno!", "You have not told me."], ["right"] * 4),
        (["Bruno", "Anna", "Anna Maria", "Miso"], ["wrong_fact"] * 4),
        (["I do not know.", "You never said.", "no idea", "Noted."], ["absent"] * 3 + ["other"]),
        ([None, "", "Rex", None], ["other"] * 4),
    ],
)
def test_a_fake_answerer_is_scored(answers, outcomes):
    scored = score_turns(CONVERSATION, ["Noted.", "Noted.", *answers])
    assert [each.outcome for each in scored] == [None, None, *outcomes]


def report():
    said = ["Noted.", "Noted.", "Bruno", "Miso", "I do not know.", "You have not told me."]
    other = TypedConversation("t2", "lower_case", (TypedTurn("im ada"), TypedTurn("who am i", ("Ada",))))
    conversations = [CONVERSATION, other]
    memory = [score_turns(CONVERSATION, said), score_turns(other, [None, "Your horse is Blitz."])]
    zeroed = [score_turns(CONVERSATION, ["Noted."] * 6), score_turns(other, ["Noted.", "Ada"])]
    return HandTypedReport(conversations, {"memory": memory, "zeroed": zeroed})


def test_the_report_counts_by_kind_and_by_habit(tmp_path):
    report().save(tmp_path)
    summary = json.loads((tmp_path / "hand_typed.json").read_text())
    assert (summary["conversations"], summary["questions"], summary["messages_too_long"]) == (2, 5, 1)
    memory, zeroed = summary["conditions"]["memory"], summary["conditions"]["zeroed"]
    assert memory["all"] == {"asked": 5, "right": 0.4, "wrong_fact": 0.2, "absent": 0.2, "other": 0.2}
    assert memory["told"]["asked"] == 4 and memory["told"]["right"] == 0.25
    assert memory["never_said"] == {"asked": 1, "right": 1.0, "wrong_fact": 0.0, "absent": 0.0, "other": 0.0}
    assert memory["by_habit"]["pets"]["asked"] == 4
    assert zeroed["by_habit"]["lower_case"]["right"] == 1.0


def test_answers_of_little_confidence_can_be_withheld():
    said = [("Noted.", 0.1), ("Noted.", 0.1), ("Anna", 0.9), ("Bruno", 0.84), ("No idea.", 0.3), ("Miso", 0.75)]
    scored = score_turns(CONVERSATION, [Answer(*each) for each in said])
    (shares,) = HandTypedReport([CONVERSATION], {"memory": [scored]}).summary()["conditions"].values()
    told = {least: each["told"] for least, each in shares["withheld_below"].items()}
    third = pytest.approx(1 / 3)
    assert told["0.0"] == told["0.8"] == {"right": third, "wrong": third, "absent": third}
    assert told["0.85"] == told["0.9"] == {"right": third, "wrong": 0.0, "absent": pytest.approx(2 / 3)}
    assert told["0.95"] == {"right": 0.0, "wrong": 0.0, "absent": 1.0}
    hedged = score_turns(CONVERSATION, [Answer("Anna, but I am not sure", 0.9)] * 6)
    assert hedged[2].outcome == "right"
    (sure,) = HandTypedReport([CONVERSATION], {"memory": [hedged]}).summary()["conditions"].values()
    assert sure["withheld_below"]["0.0"]["told"]["right"] == sure["told"]["right"] > 0
    never = {least: each["never_said"]["absent"] for least, each in shares["withheld_below"].items()}
    assert (never["0.7"], never["0.8"]) == (0.0, 1.0)
    unanswered = score_turns(CONVERSATION, [None] * 6)
    (shares,) = HandTypedReport([CONVERSATION], {"memory": [unanswered]}).summary()["conditions"].values()
    assert shares["withheld_below"]["0.0"]["told"] == {"right": 0.0, "wrong": 0.0, "absent": 1.0}


def test_the_table_fits_and_the_transcript_marks_failures(tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*report().tables())
    shown = console.export_text()
    assert "…" not in shown and {"lower_case", "40.0", "asked"} <= set(shown.split())
    lines = report().transcript().splitlines()
    assert "== t1 (pets)" in lines and "   you    My cat?" in lines and "ok model  Miso" in lines
    assert "!! model  Bruno   [wrong fact; right: Anna Maria | Anna]" in lines
    assert "!! model  I do not know.   [says it was not told; right: Bruno]" in lines
    assert sum(line.startswith("!!") for line in lines) == 3


def test_an_untrained_model_is_measured():
    model, tokenizer = tiny()
    found = evaluate_hand_typed(model, tokenizer, [CONVERSATION], max_length=LENGTH, batch_size=2)
    assert found.summary()["conditions"]["zeroed"]["all"]["asked"] == 4
    assert found.summary()["conditions"]["memory"]["all"]["right"] < 0.5
