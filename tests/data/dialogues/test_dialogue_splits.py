"""Splits keep their promise, knobs do what they say, and an episode is a function of its number."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import replace

import pytest

from rxt_jax.data.dialogues import SPLITS, Dialogues, DialogueSpec, medium, small, tiny
from rxt_jax.data.dialogues.inventories import OPINIONS, VALUE_TYPES, inventory
from rxt_jax.data.dialogues.phrasing import Phrasebook


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
    assert hashlib.md5(text.encode()).hexdigest() == "8b71ff1df63ed37f8f1ec31af4ccadbb"


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("size", [32, None])
def test_values_are_held_out(value_type, size):
    values = inventory(value_type, size)
    assert len(set(values.train)) == len(values.train) >= min(size or 99, len(OPINIONS))
    if value_type != "opinion":
        assert len(values.held_out) >= 20
        assert not set(values.train) & set(values.held_out)


def test_held_out_values_are_asked_for_in_their_split_only():
    def values(split: str) -> set[str]:
        return {r["value"] for row in interactions(small(), split) for r in row.get("recall", ())} - set(OPINIONS)

    held_out = values("unseen_values")
    assert len(held_out) > 200
    for split in ("train", "iid", "unseen_phrasings", "longer"):
        assert not held_out & values(split)


@pytest.mark.parametrize("preset", [tiny, small, medium])
def test_phrasings_are_held_out(preset):
    seen, unseen = (Phrasebook(preset(), held_out=held_out) for held_out in (False, True))
    for slot, phrases in seen.attributes.items():
        other = unseen.attributes[slot]
        for act in ("state", "ask", "change", "history"):
            if slot not in ("person_city", "purchase"):
                assert getattr(other, act), (slot, act)
            assert not set(getattr(phrases, act)) & set(getattr(other, act)), (slot, act)
        # The model speaks the same way to everybody.
        assert phrases.tell == other.tell
    for name in ("compare", "summary", "first", "count", "hop", "chat", "sum", "copy", "define", "tool_frames"):
        assert getattr(unseen, name)
        assert not set(getattr(seen, name)) & set(getattr(unseen, name)), name


def test_unseen_phrasings_are_never_heard_in_training():
    heard = {row["query"] for row in interactions(tiny(), count=3000) if row["intent"] == "recall"}
    unheard = {row["query"] for row in interactions(tiny(), "unseen_phrasings") if row["intent"] == "recall"}
    assert unheard
    assert not heard & unheard


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
    assert sum(count for distance, count in longer.items() if distance > 8) > 0.3 * longer.total()


def test_rows_of_tiny_are_short_and_answers_restate_the_key():
    rows = interactions(tiny(), count=1000)
    parts = ("internal", "tool_use", "query", "think", "answer", "tool_call")
    lengths = sorted(sum(len(row.get(part, "").split()) for part in parts) for row in rows)
    assert lengths[len(lengths) // 2] <= 11
    assert lengths[int(0.95 * len(lengths))] <= 18
    for row in rows:
        if row["intent"] == "recall":
            # The value is the last thing said, after its key.
            assert row["answer"].lower().index("you") < row["answer"].rindex(row["recall"][0]["value"])


@pytest.mark.parametrize(
    ("knob", "intents"),
    [
        ("recall_share", ("recall",)),
        ("absence_share", ("absence",)),
        ("distractor_share", ("chat", "sum", "copy", "define")),
        ("compare_share", ("compare",)),
        ("tool_share", ("tool_call",)),
        ("hop_share", ("hop",)),
        ("count_share", ("count",)),
        ("first_share", ("first",)),
        ("summary_share", ("summary",)),
        ("updates", ("update",)),
    ],
)
def test_a_share_makes_its_turns_more_frequent(knob, intents):
    low, high = (share(replace(small(), **{knob: value}), *intents) for value in (0.0, 0.3))
    assert high > low + 0.01


def test_shares_of_turns_that_need_others():
    assert share(replace(small(), history_share=0.9, updates=0.6), "history") > 0.01
    assert share(replace(small(), similar_share=0.9), "similar") > 5 * share(small(), "similar")


def test_wordings_follow_their_knobs():
    spec = replace(tiny(), filler_share=0.0, noise=0.0, think_share=0.0, internal_share=0.0)
    plain = interactions(spec)
    assert not any("think" in row or "internal" in row for row in plain)
    wrapped = interactions(replace(spec, filler_share=1.0))
    markers = ("By the way, ", "Well, ", "Hm, ")
    assert all(row["query"].startswith(markers) for row in wrapped if row["intent"] == "recall")
    heard = {row.get("query") for row in plain}
    noisy = [row for row in interactions(replace(spec, noise=1.0)) if row["intent"] == "recall"]
    assert sum(row["query"] not in heard for row in noisy) > 0.9 * len(noisy)
    assert all(len(interactions(replace(spec, two_facts_share=s), count=5)) for s in (0.0, 1.0))


def test_a_silent_acknowledgement_leaves_the_value_to_the_query():
    rows = [row for row in interactions(replace(tiny(), echo_probability=0.0)) if row["intent"] in ("state", "update")]
    assert {row["answer"].split(".")[0].split("! ")[-1] for row in rows} == {"Noted"}


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
        ({"attributes": ("cat", "unicorn")}, "unicorn"),
        ({"attributes": ("cat", "home", "food")}, "compare_share needs two"),
        ({"tools": ("library",)}, "tool library"),
        ({"values_per_type": 0}, "values_per_type"),
    ],
)
def test_impossible_specs_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **changes)


def test_an_inventory_that_is_too_small_is_an_error_and_not_an_endless_search():
    spec = replace(small(), values_per_type=1, similar_share=1.0)
    with pytest.raises(ValueError, match="raise values_per_type"):
        interactions(spec)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of"):
        Dialogues(tiny(), split="test")


def test_episodes_are_made_faster_than_they_are_used():
    dialogues = Dialogues(tiny(), seed=1)
    dialogues.episode(0)
    times = []
    for repeat in range(5):  # the best of five: the machine may be busy
        start = time.perf_counter()
        count = sum(len(dialogues.episode(repeat * 100 + index)["interactions"]) for index in range(100))
        times.append((time.perf_counter() - start) / count)
    assert min(times) < 0.3e-3
