"""What training text never holds is told from what it does, and asked for apart."""

import json

import pytest

from rxt_jax.data.config import DialogueData, FileData, MixedData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation.recall import recalls_of
from rxt_jax.evaluation.unseen import by_occurrence, unseen_values


def write(path, *interactions):
    episodes = [{"id": number, "interactions": list(each)} for number, each in enumerate(interactions)]
    path.write_text("".join(json.dumps(each) + "\n" for each in episodes))
    return FileData(path=str(path))


def asking(*values):
    return {
        "query": "Where?",
        "answer": "There.",
        "recall": [{"slot": "s", "value": each, "distance": 1} for each in values],
    }


def test_values_are_looked_for_as_whole_words_whatever_case_and_punctuation():
    texts = ['{"city": "San José"}', "They met at 9:15 in New York, N.Y.", "Ann"]
    assert unseen_values(["san josé", "9:15", "New York", "York", "NY", "Anna", "An", "15 9"], texts) == {
        "NY",
        "Anna",
        "An",
        "15 9",
    }
    assert unseen_values(["Anna"], []) == {"Anna"} and unseen_values([], texts) == set()


def test_recall_is_split_by_what_occurs_in_any_training_text(tmp_path):
    held_out = write(tmp_path / "dev.jsonl", [asking(), asking("Oslo", "Rome")], [asking("Paris", "Ghent")])
    training = write(
        tmp_path / "train.jsonl",
        [{"query": "I like oslo.", "answer": "Good.", "tool_call": '{"city": "Paris"}'}],
        [{"tool_use": '{"city": "Berlin"}', "answer": "Done."}],
    )
    more = write(tmp_path / "more.jsonl", [{"query": "Romeo", "think": "Ghent!", "answer": "Yes."}])
    kinds = by_occurrence(open_source(held_out), open_source(training))
    found = {
        kind: [each.value for each in recalls_of([source.episode(0), source.episode(1)], 9)]
        for kind, source in kinds.items()
    }
    assert found == {"values in training": ["Oslo", "Paris"], "values never seen": ["Rome", "Ghent"]}
    assert all(source.size == 2 for source in kinds.values())
    assert kinds["values never seen"].episode(1)["interactions"][0]["query"] == "Where?"
    # A mixture is all of its files; conversations without end cannot be looked through.
    mixture = MixedData(sources=(training, more, DialogueData()), weights=(1, 1, 1))
    never = by_occurrence(open_source(held_out), open_source(mixture))["values never seen"]
    assert [each.value for each in recalls_of([never.episode(0), never.episode(1)], 9)] == ["Rome"]
    with pytest.raises(ValueError, match="without end"):
        by_occurrence(open_source(DialogueData()), open_source(training))
