"""Splits keep their promise, knobs do what they say, and an episode is a function of its number."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from rxt_jax.data.dialogues import SPLITS, Dialogues, DialogueSpec, medium, small, tiny
from rxt_jax.data.dialogues.deeds import deeds
from rxt_jax.data.dialogues.draws import Draws, stream_key
from rxt_jax.data.dialogues.phrasing import Phrasebook
from rxt_jax.data.dialogues.properties import properties
from rxt_jax.data.dialogues.scenes import scenes
from rxt_jax.data.dialogues.unusual_values import draw_unusual_value
from rxt_jax.data.dialogues.values import OPINIONS, VALUE_TYPES, draw_value
from rxt_jax.data.dialogues.word_lists import is_held_out


def interactions(spec: DialogueSpec, split: str = "train", count: int = 300):
    dialogues = Dialogues(spec, seed=7, split=split)
    return [turn for index in range(count) for turn in dialogues.episode(index)["interactions"]]


def share(spec: DialogueSpec, *intents: str) -> float:
    rows = interactions(spec)
    return sum(row["intent"] in intents for row in rows) / len(rows)


@pytest.mark.parametrize("preset", [tiny, small, medium])
@pytest.mark.parametrize("split", SPLITS)
def test_an_episode_is_a_function_of_its_number(preset, split):
    forward = Dialogues(preset(), seed=3, split=split)
    backward = Dialogues(preset(), seed=3, split=split)
    expected = [forward.episode(index) for index in range(20)]
    assert [backward.episode(index) for index in reversed(range(20))] == expected[::-1]
    assert forward.text(11) == backward.text(11)
    assert Dialogues(preset(), seed=4, split=split).episode(0)["interactions"] != expected[0]["interactions"]


def test_no_two_splits_share_their_draws():
    first = [json.dumps(Dialogues(tiny(), seed=1, split=split).episode(0)["interactions"]) for split in SPLITS]
    assert len(set(first)) == len(SPLITS)


def test_the_bytes_of_a_seed_stay_what_they_were():
    """A change here makes every measured figure of the embedded data a figure of other data."""
    dialogues = Dialogues(tiny(), seed=3, split="train")
    text = json.dumps([dialogues.episode(index) for index in range(300)])
    assert hashlib.md5(text.encode()).hexdigest() == "b0079a4e9a459a3960616a5e93c4887a"


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_values_are_open_and_held_out(value_type):
    """Training draws come from an open set that evaluation never meets."""
    draws = Draws(stream_key(5), 0)
    seen, unseen = ({draw_value(draws, value_type, side, 0.4) for _ in range(400)} for side in (False, True))
    if value_type in ("opinion", "weekday", "month"):
        assert seen == unseen
        return
    assert not seen & unseen
    assert all(is_held_out(value) for value in unseen)
    assert not any(is_held_out(value) for value in seen)
    assert len(seen) >= (15 if value_type == "vehicle" else 20)


@pytest.mark.parametrize("value_type", ["name", "full_name", "city", "title", "food"])
def test_unusual_values_are_held_out_as_well(value_type):
    draws = Draws(stream_key(6), 0)
    seen, unseen = ({draw_unusual_value(draws, value_type, side, 0.4) for _ in range(300)} for side in (False, True))
    assert all(is_held_out(value) for value in unseen)
    assert not any(is_held_out(value) for value in seen)
    strange = [value for value in seen if not value.isascii() or "-" in value or "." in value or value.count(" ") >= 2]
    assert len(strange) > 0.4 * len(seen)


def test_held_out_values_are_asked_for_in_their_splits_only():
    def values(split: str) -> set[str]:
        rows = interactions(small(), split, 10 if split == "longest" else 300)
        shared = set(OPINIONS) | {"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}
        return {
            r["value"].lower() for row in rows for r in row.get("recall", ()) if r["slot"] != "my search number"
        } - shared

    held_out = values("unseen_values") | values("all_unseen")
    assert len(held_out) > 200
    for split in ("train", "iid", "unseen_phrasings", "unseen_keys", "longer", "longest"):
        assert not held_out & values(split), held_out & values(split)


def test_no_held_out_value_is_heard_in_training():
    """Not even as a key, in small talk or in a thought."""
    heard = " ".join(row.get("query", "") + " " + row["answer"] for row in interactions(small(), count=3000)).lower()
    words = set(re.findall(r"[\w'-]+", heard))
    invented = {
        recall["value"].lower()
        for row in interactions(small(), "unseen_values", 600)
        for recall in row.get("recall", ())
        if recall["type"] in ("name", "city", "job", "animal")
    }
    single = {value for value in invented if " " not in value and "-" not in value}
    assert len(single) > 100
    # Parts of longer entries ("bounty hunter") are other words.
    assert len(single & words) < 0.05 * len(single), single & words


def test_held_out_keys_are_asked_for_in_their_splits_only():
    def subjects(split: str) -> set[str]:
        pattern = r"my ([\w-]+)(?:'s name)$"
        rows = interactions(small(), split)
        slots = {recall["slot"] for row in rows for recall in row.get("recall", ())}
        return {found[1].lower() for slot in slots if (found := re.match(pattern, slot))}

    unseen = subjects("unseen_keys")
    assert unseen
    assert not unseen & subjects("train")
    assert all(is_held_out(noun) for noun in unseen)


@pytest.mark.parametrize("preset", [tiny, small, medium])
def test_phrasings_are_held_out(preset):
    spec = replace(preset(), deeds_share=0.5, scene_share=0.5)
    seen, unseen = (Phrasebook(spec, held_out=held_out) for held_out in (False, True))
    parts = [part for scene in scenes() for part in scene.parts.values()]
    topics = [*properties().values(), *(each for verb in deeds() for each in verb), *parts]
    for name, prop in ((each.name, each) for each in topics):
        for act in ("state", "ask"):
            first, other = (set(book._acts[name, act]) for book in (seen, unseen))
            assert first, (name, act)
            assert other or not prop.weight, (name, act)
            assert not first & other, (name, act)
    for name, phrases in seen.lists.items():
        assert unseen.lists[name], name
        assert not set(phrases) & set(unseen.lists[name]), name


def test_unseen_phrasings_are_never_heard_in_training():
    heard = {row["query"] for row in interactions(tiny(), count=3000) if row["intent"] == "recall"}
    unheard = {row["query"] for row in interactions(tiny(), "unseen_phrasings") if row["intent"] == "recall"}
    assert unheard
    # "And me?" with an unheard opener is still unheard; only questions of one noun can coincide.
    assert len(heard & unheard) < 0.05 * len(unheard)


def test_recall_reaches_every_distance_and_the_longer_split_farther():
    def distances(spec: DialogueSpec, split: str = "train") -> Counter:
        rows = interactions(spec, split, 600)
        return Counter(row["recall"][0]["distance"] for row in rows if row["intent"] == "recall")

    spec = replace(tiny(), interactions=(9, 9))
    found = distances(spec)
    total = found.total()
    assert set(found) <= set(range(1, 9))
    assert all(found[distance] > 0.04 * total for distance in range(1, 9)), found
    longer = distances(spec, "longer")
    assert sum(count for distance, count in longer.items() if distance > 8) > 0.25 * longer.total()


def test_answers_restate_the_key_before_the_value():
    rows = [
        row
        for row in interactions(replace(small(), internal_share=0.0), count=600)
        if row["intent"] == "recall" and "recall" in row
    ]
    late = sum(
        row["answer"].lower().rindex(row["recall"][0]["value"].lower()) > 0.3 * len(row["answer"]) for row in rows
    )
    assert late > 0.85 * len(rows)


@pytest.mark.parametrize(
    ("knob", "intents"),
    [
        ("recall_share", ("recall",)),
        ("absence_share", ("absence",)),
        ("distractor_share", ("chat", "sum", "copy")),
        ("compare_share", ("compare",)),
        ("tool_share", ("tool_call",)),
        ("hop_share", ("hop",)),
        ("first_share", ("first",)),
        ("summary_share", ("summary",)),
        ("updates", ("update",)),
        ("withdrawals", ("withdraw",)),
    ],
)
def test_a_share_makes_its_turns_more_frequent(knob, intents):
    low, high = (share(replace(small(), **{knob: value}), *intents) for value in (0.0, 0.5))
    assert high > low + 0.01


def test_shares_of_turns_that_need_others():
    assert share(replace(small(), history_share=0.9, updates=0.6), "history") > 0.01


def test_wordings_follow_their_knobs():
    spec = replace(small(), wrapped_share=0.0, typo_share=0.0, careless_share=0.0, think_share=0.0, internal_share=0.0)
    plain = interactions(spec)
    assert not any("think" in row or "internal" in row for row in plain)
    assert not any(row["query"].islower() for row in plain if "query" in row and row["intent"] == "recall")
    careless = [row["query"] for row in interactions(replace(spec, careless_share=1.0)) if "query" in row]
    assert sum(query == query.lower() for query in careless) > 0.3 * len(careless)
    assert sum(query[-1] not in ".?!" for query in careless) > 0.3 * len(careless)
    wrapped = [row["query"] for row in interactions(replace(spec, wrapped_share=1.0)) if row["intent"] == "recall"]
    assert sum(map(len, wrapped)) / len(wrapped) > 40
    several = [row for row in interactions(replace(spec, several_facts_share=1.0)) if row["intent"] == "state"]
    assert sum(" and " in row["answer"] for row in several) > 0.1 * len(several)


def test_everyday_facts_follow_their_knob():
    def everyday(value: float) -> float:
        dialogues = Dialogues(replace(small(), everyday_share=value, confusable_share=0.0, same_subject_share=0.0))
        facts = [fact for number in range(100) for fact in dialogues.episode_and_facts(number)[1]]
        return sum(fact.topic.everyday for fact in facts) / len(facts)

    assert everyday(0.0) == 0
    assert 0.35 < everyday(0.5) < 0.65


def test_deeds_follow_their_knob():
    def share(value: float) -> float:
        dialogues = Dialogues(replace(small(), deeds_share=value, confusable_share=0.0, same_subject_share=0.0))
        facts = [fact for number in range(100) for fact in dialogues.episode_and_facts(number)[1]]
        return sum(fact.topic.name.startswith("deed_") for fact in facts) / len(facts)

    assert share(0.0) == 0
    assert 0.35 < share(0.5) < 0.65


def test_one_sentence_tells_several_parts_of_a_deed_and_each_can_be_asked_for():
    dialogues = Dialogues(replace(small(), deeds_share=1.0, several_facts_share=1.0, typo_share=0.0))
    told_together = 0
    for number in range(200):
        episode, facts = dialogues.episode_and_facts(number)
        for row in episode["interactions"]:
            here = [fact for fact in facts if fact.value and fact.topic.family and fact.value in row.get("answer", "")]
            for first, second in pairwise(here):
                if first.is_told_with(second) and row["intent"] == "state":
                    told_together += 1
                    assert f" {second.tail}" in row["answer"]
                    assert first.slot != second.slot
    assert told_together > 20


def test_a_single_part_of_a_deed_is_told_in_many_ways():
    rows = interactions(replace(small(), deeds_share=1.0, several_facts_share=0.0, careless_share=0.0))
    told = [row["query"] for row in rows if row["intent"] == "state"]
    assert sum("in case you wonder" in query for query in told) > 0.02 * len(told)


def test_capitals_and_notes_follow_their_knobs():
    spec = replace(small(), internal_share=0.0, think_share=0.0)
    queries = [row["query"] for row in interactions(replace(spec, capitals_share=1.0)) if "query" in row]
    assert all(query == query.upper() for query in queries)

    def notes(value: float) -> float:
        states = [row for row in interactions(replace(spec, terse_share=value)) if row["intent"] == "state"]
        return sum(" = " in row["query"] or " -> " in row["query"] for row in states) / len(states)

    assert notes(1.0) > notes(0.0) + 0.1


def test_indirect_questions_follow_their_knob():
    def indirect(value: float) -> int:
        rows = interactions(replace(small(), indirect_share=value, careless_share=0.0, typo_share=0.0))
        return sum("happen to" in row["query"] for row in rows if row["intent"] == "recall")

    assert indirect(0.0) == 0
    assert indirect(1.0) > 20


def test_confusable_facts_follow_their_knob():
    def candidates(value: float) -> float:
        found = [
            r["candidates"]
            for row in interactions(replace(small(), confusable_share=value))
            for r in row.get("recall", ())
        ]
        return sum(each >= 2 for each in found) / len(found)

    assert candidates(0.8) > candidates(0.0) + 0.2


def test_a_silent_acknowledgement_leaves_the_value_to_the_query():
    spec = replace(tiny(), echo_probability=0.0, internal_share=0.0)
    rows = [row for row in interactions(spec) if row["intent"] in ("state", "update")]
    assert {row["answer"] for row in rows} == {"Noted."}


def test_texts_are_the_words_of_the_split_without_control_tokens():
    dialogues = Dialogues(tiny(), seed=1)
    texts = [dialogues.text(index) for index in range(50)]
    assert len(set(texts)) > 45
    assert not any("[" in text for text in texts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interactions": (5, 3)}, "interactions must be"),
        ({"max_distance": 40}, "make the episodes longer"),
        ({"recall_share": 1.5}, "recall_share must lie"),
        ({"properties": ("pet_name", "unicorn")}, "unicorn"),
        ({"tools": ("library",)}, "unknown library"),
        ({"tools": ()}, "tool_share needs"),
        ({"phrasings": 0}, "phrasings"),
    ],
)
def test_impossible_specs_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **changes)


def test_a_world_that_is_too_small_is_an_error_and_not_an_endless_search():
    spec = replace(tiny(), properties=("my_name",), facts=(4, 5), hop_share=0.0, compare_share=0.0)
    with pytest.raises(ValueError, match="name more properties"):
        interactions(spec)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of"):
        Dialogues(tiny(), split="test")
