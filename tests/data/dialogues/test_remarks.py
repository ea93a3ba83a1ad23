"""Remarks: they follow their knob, add no fact, vary, and a faulty file is named."""

from dataclasses import replace

import pytest

from rxt_jax.data.dialogues import Dialogues, small
from rxt_jax.data.dialogues.remarks import drawn_values, read_remarks, remarks
from rxt_jax.data.dialogues.talk import side_of_phrases
from rxt_jax.data.dialogues.templates import sentence


def rows_of(split="train", **changes):
    spec = replace(small(), distractor_share=0.4, remark_share=1.0, internal_share=0.0)
    dialogues = Dialogues(replace(spec, **changes), split=split)
    return [row for number in range(200) for row in dialogues.episode(number)["interactions"]]


def test_remarks_follow_their_knob():
    intents = [row["intent"] for row in rows_of(remark_share=0.5)]
    assert 0.4 < intents.count("remark") / sum(map(intents.count, ("remark", "chat", "sum", "copy"))) < 0.6
    assert "remark" not in [row["intent"] for row in rows_of(remark_share=0.0)]


def test_a_remark_is_answered_without_a_fact_and_asks_for_none():
    answers = {sentence(each.answer) for each in remarks()}
    found = [row for row in rows_of() if row["intent"] == "remark"]
    assert {row["answer"] for row in found} <= answers
    assert not any("recall" in row for row in found)
    # Their words are drawn: hardly any sentence comes twice.
    assert len({row["query"].lower() for row in found}) > 0.6 * len(found)


def test_evaluation_hears_other_remarks_than_training():
    fixed = [text for each in remarks() for text in each.say if "{" not in text and len(text) > 20]
    held_out = {
        text for each in remarks() for text in side_of_phrases(each.say, True) if "{" not in text and len(text) > 20
    }
    careful = dict(careless_share=0.0, typo_share=0.0)

    def heard(split):
        queries = [row["query"].lower() for row in rows_of(split, **careful) if row["intent"] == "remark"]
        return {text for text in fixed if any(query.startswith(text.lower()) for query in queries)}

    assert heard("train") and not heard("train") & held_out
    assert heard("unseen_phrasings") and heard("unseen_phrasings") <= held_out


def test_places_of_a_remark():
    assert drawn_values("does {S} like {a thing} from {city}, {v}?") == ["thing", "city"]


GROUP = """
[[remark]]
answer = "I see"
subjects = ["pet"]
say = ["{S} is funny", "look at {O}", "I like {city}", "{v} sounds nice"]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{city}", "{town}", r"my.toml, group 1: unknown place \{town\}"),
        ('subjects = ["pet"]', "", r"'\{S\} is funny' speaks of somebody"),
        ('"pet"', '"pets"', "no subject pets"),
        (', "{v} sounds nice"', "", "at least 4 different sentences"),
        ("I like {city}", "from {city} to {city}", "names a value twice"),
        ("answer", "reply", r"needs answer, say and perhaps subjects; see \['answer', 'reply'\]"),
    ],
)
def test_a_faulty_file_is_named(old, new, message):
    assert [each.answer for each in read_remarks(GROUP, "my.toml")] == ["I see"]
    with pytest.raises(ValueError, match=message):
        list(read_remarks(GROUP.replace(old, new), "my.toml"))
