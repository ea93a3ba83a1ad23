"""The embedded dialogues are an instrument: what their annotations say has to be true, in every split and preset."""

import json
import re
from dataclasses import replace

import pytest

from rxt_jax.data.dialogues import SPLITS, Dialogues, medium, small, tiny

PRESETS = {"tiny": tiny, "small": small, "medium": medium}
ALL = [(preset, split) for preset in PRESETS for split in SPLITS]
# What the companion learns from has more topics.
PRESETS["everyday"] = lambda: replace(small(), everyday_share=0.6)
PRESETS["deeds"] = lambda: replace(
    small(),
    deeds_share=0.8,
    unusual_values=0.3,
    several_facts_share=0.3,
    indirect_share=0.3,
    capitals_share=0.2,
    terse_share=0.2,
)
PRESETS["scenes"] = lambda: replace(
    PRESETS["deeds"](), scene_share=0.8, varied_echo_probability=0.0, absence_share=0.15
)
PRESETS["remarks"] = lambda: replace(PRESETS["scenes"](), distractor_share=0.3, remark_share=0.8)
EVERYDAY = [
    (preset, split) for preset in ("everyday", "deeds", "scenes", "remarks") for split in ("train", "all_unseen")
]
PARTS = ("internal", "tool_use", "query", "think", "answer", "tool_call")


def episodes(preset: str = "tiny", split: str = "train", count: int = 150, **changes):
    dialogues = Dialogues(replace(PRESETS[preset](), **changes), seed=7, split=split)
    count = count if split != "longest" else 10
    return [dialogues.episode(index)["interactions"] for index in range(count)]


def spoken(interaction: dict) -> str:
    return " ".join(interaction[part] for part in PARTS if part in interaction)


def mentions(value: str, text: str) -> bool:
    """Whether a value stands in a text as words of its own; a sentence may begin with it."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def turns(interactions: list[dict]):
    for position, interaction in enumerate(interactions):
        for recall in interaction.get("recall", ()):
            yield position, interaction, recall


@pytest.mark.parametrize(("preset", "split"), ALL + EVERYDAY)
def test_a_recalled_value_is_in_the_answer_and_was_last_said_distance_turns_before(preset, split):
    seen = 0
    for interactions in episodes(preset, split):
        for position, interaction, recall in turns(interactions):
            seen += 1
            value, distance = recall["value"], recall["distance"]
            assert 1 <= distance <= position
            # An instruction shapes the answer, a tool call carries the value in its argument.
            assert mentions(value, interaction["answer"] + " " + interaction.get("tool_call", "")), interaction
            assert not mentions(value, interaction.get("query", "")), interaction
            assert mentions(value, spoken(interactions[position - distance])), (interactions, recall)
            for between in interactions[position - distance + 1 : position]:
                assert not mentions(value, spoken(between)), (between, recall)
    assert seen > 100


@pytest.mark.parametrize(("preset", "split"), [("small", split) for split in SPLITS] + EVERYDAY)
def test_every_answer_can_be_derived_from_what_was_said(preset, split):
    """A question that recalls is annotated, unless the value stands in its own query; the latest value counts."""
    seen = 0
    for interactions in episodes(preset, split, 300):
        for interaction in interactions:
            if interaction["intent"] in ("recall", "hop"):
                seen += 1
                # "Do I like or dislike rowing?" names the answer.
                assert "recall" in interaction or "like" in interaction["query"], interactions
                assert len(interaction.get("recall", [None])) == 1
    assert seen > 50


def test_no_outdated_value_is_told():
    """Once a fact has a new value, only a question for the old one may be answered with it."""
    changed = 0
    for interactions in episodes(
        properties=("my_name", "my_city", "my_job", "my_hobby", "my_book", "my_drink"),
        updates=0.8,
        several_facts_share=0.0,
        echo_probability=1.0,
        internal_share=0.0,
        tool_share=0.0,
        hop_share=0.0,
        compare_share=0.0,
        same_subject_share=0.0,
    ):
        # Two words of the model's sentence ("you live in …") tell these facts apart.
        holds: dict[str, str] = {}
        for interaction in interactions:
            answer = interaction["answer"].removeprefix("Noted, ").lower()
            about = " ".join(answer.split()[:2])
            if interaction["intent"] in ("state", "update"):
                changed += about in holds
                holds[about] = answer
            elif interaction["intent"] == "recall":
                assert holds[about] == answer, (interaction, holds)
    assert changed > 50


def test_the_unsaid_and_the_withdrawn_are_not_known():
    withdrawn = asked_again = 0
    for interactions in episodes("small", absence_share=0.3, withdrawals=0.4, count=400):
        gone: set[str] = set()
        for interaction in interactions:
            if interaction["intent"] == "withdraw":
                withdrawn += 1
                assert "have forgotten" in interaction["answer"]
                gone.add(interaction["answer"].split("I have forgotten ")[1].split(".")[0])
            if interaction["intent"] == "absence":
                assert "recall" not in interaction
                about = re.search(r"[Yy]ou have not told me (.*?)\.", interaction["answer"]).group(1)
                asked_again += about in gone
    assert withdrawn > 100
    assert asked_again > 20


def test_what_is_asked_as_absent_was_not_stated():
    seen = 0
    for interactions in episodes("small", absence_share=0.4, withdrawals=0.0, echo_probability=1.0, count=300):
        slots: set[str] = set()
        for interaction in interactions:
            slots |= {recall["slot"] for recall in interaction.get("recall", ())}
            if interaction["intent"] == "absence":
                seen += 1
                assert interaction["asked"] not in slots
    assert seen > 100


def test_comparisons_are_right():
    seen = 0
    for interactions in episodes("small", compare_share=0.3, think_share=1.0, count=300):
        for interaction in interactions:
            if interaction["intent"] == "compare":
                seen += 1
                ages = [int(age) for age in re.findall(r": (\d+)", interaction["think"])]
                assert len(ages) == 2
                answer = re.search(r"(older|younger), at (\d+)", interaction["answer"])
                assert int(answer[2]) == (max if answer[1] == "older" else min)(ages)
    assert seen > 50


def test_sums_are_right():
    seen = 0
    for interactions in episodes("medium"):
        for interaction in interactions:
            if interaction["intent"] == "sum":
                seen += 1
                x, y, total = map(int, re.search(r"(\d+) plus (\d+) is (\d+)", interaction["answer"]).groups())
                assert x + y == total
    assert seen > 10


def test_a_summary_tells_the_latest_facts():
    seen = 0
    for interactions in episodes("small", summary_share=1.0, withdrawals=0.0, updates=0.0):
        last = interactions[-1]
        if last["intent"] == "summary" and "recall" in last:
            seen += 1
            assert len(last["recall"]) <= small().summary_facts
            for recall in last["recall"]:
                assert mentions(recall["value"], last["answer"])
    assert seen > 50


def test_who_is_asked_after_by_relation_was_told_by_name():
    seen = 0
    for interactions in episodes("small", hop_share=0.3):
        for position, interaction in enumerate(interactions):
            if interaction["intent"] == "hop":
                seen += 1
                (recall,) = interaction["recall"]
                assert mentions(recall["value"], " ".join(spoken(before) for before in interactions[:position]))
    assert seen > 50


def test_tools_get_a_remembered_argument_and_their_result_is_asked_for_later():
    calls = results = 0
    for interactions in episodes("small", tool_share=0.2):
        for position, interaction in enumerate(interactions):
            if interaction["intent"] != "tool_call":
                continue
            calls += 1
            arguments = json.loads(interaction["tool_call"])
            assert not interaction.get("recall") or interaction["recall"][0]["value"] in arguments.values()
            result = interactions[position + 1]
            assert "query" not in result
            (key, value), *_ = json.loads(result["tool_use"]).items()
            for later in interactions[position + 2 :]:
                if later["intent"] == "recall" and later["recall"][0]["slot"] == f"my {key}":
                    results += 1
                    assert later["recall"][0]["value"] == value
    assert calls > 80
    assert results > 30


def test_an_instruction_shapes_the_answer():
    ends = {"End with over.": "Over.", "Sign as your helper.": "Your helper.", "Begin with sir.": "Sir!"}
    seen = 0
    for interactions in episodes(internal_share=0.3):
        for interaction in interactions:
            if interaction.get("internal") in ends:
                seen += 1
                assert ends[interaction["internal"]] in interaction["answer"]
    assert seen > 100


def test_a_thought_holds_what_the_answer_needs():
    seen = 0
    for interactions in episodes("small", think_share=1.0):
        for interaction in interactions:
            if interaction["intent"] in ("recall", "hop", "history"):
                for recall in interaction.get("recall", ()):
                    seen += 1
                    assert mentions(recall["value"], interaction["think"])
    assert seen > 100


def test_the_record_has_the_parts_the_template_knows():
    for interactions in episodes("medium", count=60):
        for interaction in interactions:
            assert ("query" in interaction) != ("tool_use" in interaction)
            assert interaction["answer"][-1] in ".!?"
            assert not re.search(r"[{}]|  ", interaction.get("query", "") + interaction["answer"])
