"""Answers are judged right, a wrong fact, absent or other; the embedded dialogues are counted the same way."""

import io
import json

import pytest
from rich.console import Console

from rxt_jax.evaluation import Report, SplitResult
from rxt_jax.evaluation.outcome import abstains, judge, values_in
from rxt_jax.evaluation.recall import absences_of, recalls_of
from rxt_jax.evaluation.report import ConditionResult


@pytest.mark.parametrize(
    "text",
    [
        "You have not told me.",
        "You haven't told me that yet.",
        "You haven’t told me your cat's name.",
        "I do not know your name.",
        "I don't know.",
        "Sorry, you have not said where you live.",
        "I have no idea!",
        "You never told me about a horse.",
        "You did not tell me.",
        "you didnt tell me",
        "You have never mentioned it.",
        "I don't remember that.",
        "I am not sure.",
        "I cannot recall that.",
        "I do not have that information.",
        "Nothing was told. I don't actually know.",
        "That has not been mentioned.",
    ],
)
def test_abstentions_are_recognised(text):
    assert abstains(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Noted.",
        "Your cat is called Tom.",
        "Your dog is not big.",
        "You told me it is Tom.",
        "You said Rome.",
        "You do not have a cat.",
        "It is nothing special.",
        "I know: it is red.",
        "Your note says: not before noon.",
    ],
)
def test_assertions_are_no_abstentions(text):
    assert not abstains(text)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Your cat is called Miso.", "right"),
        ("miso", "right"),
        ("Your cat is called Bruno.", "wrong_fact"),
        ("Miso or Bruno.", "wrong_fact"),
        ("You have not told me.", "absent"),
        ("You have not told me, only that your dog is Bruno.", "absent"),
        ("Your cat is called Tiger.", "other"),
        ("", "other"),
        ("Misot", "other"),
    ],
)
def test_an_answer_is_judged(text, outcome):
    assert judge(text, ["Miso"], ["Bruno", "miso"]) == outcome


def test_longer_values_are_not_mistaken_for_the_shorter_ones_in_them():
    assert values_in("Anna Maria", ["Anna", "Anna Maria"]) == {"Anna Maria"}
    assert values_in("Anna Maria and Anna", ["Anna", "Anna Maria"]) == {"Anna", "Anna Maria"}
    assert values_in("at 7:30", ["7", "7.30", "7:30"]) == {"7.30", "7:30"}
    assert judge("It is Anna Maria.", ["Anna"], ["Anna Maria"]) == "wrong_fact"
    assert judge("It is Anna.", ["Anna"], ["Anna Maria"]) == "right"


def recall(value, candidates=None):
    return {"slot": "name", "value": value, "distance": 1} | ({"candidates": candidates} if candidates else {})


EPISODE = {
    "interactions": [
        {"query": "My cat is Miso, my dog Bruno, my friend Ada a nurse.", "answer": "Noted."},
        {"query": "My cat?", "answer": "Your cat is Miso.", "recall": [recall("Miso", 2)]},
        {"query": "My dog?", "answer": "Your dog is Bruno.", "recall": [recall("Bruno", 2)]},
        {"query": "What is Ada?", "answer": "Ada is a nurse.", "recall": [recall("nurse")]},
        {"query": "My friend?", "answer": "Your friend is Ada.", "recall": [recall("Ada")]},
        {"query": "My horse?", "answer": "You have not told me.", "intent": "absence"},
        {"query": "How are you?", "answer": "Fine.", "intent": "talk"},
    ]
}


def test_other_values_of_an_episode_are_those_that_the_true_answer_does_not_name():
    recalls = recalls_of([EPISODE], 10)
    assert [each.candidates for each in recalls] == [2, 2, 1, 1]
    assert [set(each.others) for each in recalls] == [
        {"Bruno", "nurse", "Ada"},
        {"Miso", "nurse", "Ada"},
        {"Miso", "Bruno"},
        {"Miso", "Bruno", "nurse"},
    ]
    assert [(each.episode, each.turn) for each in absences_of([EPISODE], 10)] == [(0, 5)]
    assert absences_of([EPISODE], 4) == []


def counted():
    result = ConditionResult()
    answers = ["Your cat is Miso.", "Your dog is Miso.", "Ada is a teacher.", "You have not told me."]
    for each, answer in zip(recalls_of([EPISODE], 10), answers, strict=True):
        result.count_recall(each, answer)
    for answer in ("You have not told me.", "Your horse is Bruno.", "Blitz.", "I do not know."):
        result.count_absence(answer)
    return result


def test_outcomes_are_shares_of_the_questions_and_the_old_figures_stay():
    summary = counted().summary()
    assert summary["outcomes"] == {"right": 0.25, "wrong_fact": 0.25, "absent": 0.25, "other": 0.25}
    assert (summary["recall"], summary["wrong_rate"], summary["absent_rate"]) == (0.25, 0.5, 0.25)
    assert (summary["two_of_a_type"], summary["asked_two_of_a_type"]) == (0.5, 2)
    assert (summary["made_up_rate"], summary["asked_never_said"]) == (0.5, 4)
    assert summary["answer_words"] == (4 + 4 + 4 + 5 + 5 + 4 + 1 + 4) / 8
    assert {"answer_perplexity", "recall_by_bucket", "recall_by_distance", "value_token_accuracy"} <= summary.keys()


def test_questions_that_were_never_asked_have_no_share():
    summary = ConditionResult().summary()
    assert summary["outcomes"]["right"] is summary["two_of_a_type"] is summary["made_up_rate"] is None


def test_the_facts_fit_into_80_columns(tmp_path):
    conditions = {name: counted() for name in ("memory", "zeroed", "shuffled", "frozen")}
    report = Report({"unseen_phrasings": SplitResult(1, 7, conditions)})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.facts_table())
    shown = console.export_text()
    assert "…" not in shown
    assert {"memory", "zeroed", "unseen_phrasings", "50.0", "25.0"} <= set(shown.split())
    report.save(tmp_path)
    stored = json.loads((tmp_path / "recall.json").read_text())["unseen_phrasings"]["conditions"]["memory"]
    assert stored["outcomes"]["absent"] == 0.25
