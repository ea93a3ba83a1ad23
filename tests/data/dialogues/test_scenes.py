"""Scenes: one sentence tells several parts, every question has one answer, and a faulty file is named."""

from dataclasses import replace

import pytest

from rxt_jax.data.dialogues import Dialogues, small
from rxt_jax.data.dialogues.scenes import question_groups, read_scenes


def scenes_of(**changes):
    """Episodes that speak of scenes alone, as the user types them, with their facts."""
    spec = replace(
        small(), scene_share=1.0, confusable_share=0.0, same_subject_share=0.0, careless_share=0.0, typo_share=0.0
    )
    dialogues = Dialogues(replace(spec, **changes))
    return [dialogues.episode_and_facts(number) for number in range(200)]


def test_scenes_follow_their_knob():
    for value in (0.0, 0.5):
        facts = [fact for _, told in scenes_of(scene_share=value) for fact in told]
        found = sum(bool(fact.topic.scene) for fact in facts) / len(facts)
        assert (found == 0) if value == 0.0 else (0.35 < found < 0.65), (value, found)


def test_a_sentence_of_a_scene_tells_more_than_what_is_asked_and_the_answer_repeats_all_of_it():
    spoken_of_more = 0
    for episode, facts in scenes_of(echo_probability=1.0, several_facts_share=0.0, updates=0.0, withdrawals=0.0):
        for row in episode["interactions"]:
            told = [fact for fact in facts if fact.topic.scene and fact.value and fact.tell in row.get("answer", "")]
            if row["intent"] == "state" and told and row["answer"] != f"Noted, {told[0].tell}.":
                spoken_of_more += 1
                assert told[0].value.lower() in row["query"].lower()
    assert spoken_of_more > 100


def test_facts_of_many_phrasings_are_acknowledged_without_being_repeated():
    # Two ages to compare and the name of a sister are facts of other kinds, which are repeated as ever.
    found = scenes_of(varied_echo_probability=0.0, internal_share=0.0, compare_share=0.0, hop_share=0.0)
    rows = [row for episode, _ in found for row in episode["interactions"]]
    assert {row["answer"] for row in rows if row["intent"] == "state"} == {"Noted."}
    assert any("recall" in row for row in rows)


def test_properties_that_share_a_question_are_never_told_of_the_same_subject():
    groups = question_groups()
    assert groups["money_rent_rent"] == groups["home_flat_rent"] == groups["rent"] != groups["home_flat_floor"]
    for episode, facts in scenes_of(echo_probability=1.0, scene_share=0.6):
        first = [fact for fact in facts if not fact.former and fact.value]
        asked = [(groups[fact.topic.name], fact.subject.name.lower(), fact.key.lower()) for fact in first]
        assert len(set(asked)) == len(asked), episode


SCENE = """
[flight]
subjects = ["self"]
together = ["{city}, {time}", "to {city} at {time}", "at {time} to {city}", "{S} fly to {city} at {time}"]
[flight.city]
value = "city"
noun = "where {S} {is} flying to"
state = ["{S} fly to {v}", "off to {v}", "{v} by plane", "a flight to {v}"]
ask = ["where to", "to which city", "flying where", "where {is} {S} flying to"]
embedded = ["where {S} fly", "where to", "to which city"]
tell = "{S} {is} flying to {v}"
[flight.time]
value = "time"
noun = "when {P} plane leaves"
state = ["{P} plane leaves at {v}", "{v} is the time", "off at {v}", "{S} fly at {v}"]
ask = ["when", "at what time", "what time", "when do {S} fly"]
embedded = ["when {S} fly", "at what time", "what time"]
tell = "{P} plane leaves at {v}"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('value = "city"', 'value = "town"', r"my.toml \[flight\] city: no value type town"),
        ("off at {v}", "off at {v}s", r"\[flight\] time state: 'off at \{v\}s' makes another word of \{v\}"),
        ('"off to {v}"', '"off to {w}"', r"\[flight\] city state: unknown place \{w\}"),
        ('"off to {v}"', '"off to there"', "must name the value {v} once"),
        ('"to {city} at {time}"', '"to {city}"', "must tell two parts or more"),
        ('"{P} plane leaves at {v}"\n', '"my plane leaves at {v}"\n', r"the model says .* write \{my\}"),
        ('subjects = ["self"]', 'subjects = ["me"]', "no subject me"),
        ('tell = "{S} {is} flying to {v}"\n', "", r"\[flight\] city: fields must be .*see tell"),
        ('embedded = ["when {S} fly", "at what time", "what time"]', 'embedded = ["when"]', "needs at least 4"),
    ],
)
def test_a_faulty_scene_is_named(old, new, message):
    assert [scene.name for scene in read_scenes(SCENE, "my.toml")] == ["flight"]
    assert old in SCENE
    place = SCENE.rindex(old)
    with pytest.raises(ValueError, match=message):
        list(read_scenes(SCENE[:place] + new + SCENE[place + len(old) :], "my.toml"))
