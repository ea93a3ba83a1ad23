"""The embedded dialogues are an instrument: what their annotations say has to be true, in every split and preset."""

import json
import re
from dataclasses import replace

import pytest

from rxt_jax.data.dialogues import SPLITS, Dialogues, medium, small, tiny

PRESETS = {"tiny": tiny, "small": small, "medium": medium}
ALL = [(preset, split) for preset in PRESETS for split in SPLITS]
PARTS = ("internal", "tool_use", "query", "think", "answer", "tool_call")


def episodes(preset: str = "tiny", split: str = "train", count: int = 150, **changes):
    dialogues = Dialogues(replace(PRESETS[preset](), **changes), seed=7, split=split)
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


@pytest.mark.parametrize(("preset", "split"), ALL)
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
            if recall["type"] != "opinion":  # two things may be loved alike
                for between in interactions[position - distance + 1 : position]:
                    assert not mentions(value, spoken(between)), (between, recall)
    assert seen > 100


def test_every_value_from_memory_is_annotated():
    """No answer tells a value that is neither in its own query nor annotated."""
    for interactions in episodes("small"):
        values = {recall["value"] for _, _, recall in turns(interactions)}
        for interaction in interactions:
            annotated = {recall["value"] for recall in interaction.get("recall", ())}
            own = interaction.get("query", "") + interaction.get("tool_use", "")
            told = {v for v in values if not v.isdigit() and mentions(v, interaction["answer"])}
            opinions = {"love", "hate", "adore", "detest", "enjoy", "dislike"}
            assert {v for v in told if not mentions(v, own)} <= annotated | opinions, interaction


def test_no_outdated_value_is_told():
    """Once a slot has a new value, only a question for the old one may be answered with it."""
    changed = 0
    for interactions in episodes(updates=0.8, two_facts_share=0.0, echo_probability=1.0, internal_share=0.0):
        holds: dict[str, str] = {}
        for interaction in interactions:
            if interaction["intent"] in ("state", "update"):
                found = re.match(r"Noted, (your .+ is called|your .+ is|you .+) ([^ ]+?)\.", interaction["answer"])
                assert found, interaction
                about, value = found.groups()
                changed += about in holds
                holds[about] = value
            elif interaction["intent"] == "recall":
                value = interaction["recall"][0]["value"]
                known = [about for about in holds if about.lower() in interaction["answer"].lower()]
                for about in known:
                    assert holds[about] == value, (interaction, holds)
    assert changed > 50


def test_the_unsaid_is_not_known():
    for interactions in episodes("tiny", absence_share=0.4):
        stated: set[str] = set()
        for interaction in interactions:
            if interaction["intent"] == "absence":
                assert interaction["asked"] not in stated
                assert "recall" not in interaction
                assert "have not told me" in interaction["answer"]
            stated |= {recall["slot"] for recall in interaction.get("recall", ())}


def test_comparisons_are_right():
    seen = 0
    for interactions in episodes("small", compare_share=0.3):
        numbers: set[int] = set()
        for interaction in interactions:
            if interaction["intent"] == "compare":
                seen += 1
                winner = int(interaction["recall"][0]["value"])
                larger = "larger" in interaction["answer"]
                assert re.search(rf"it is {winner}\b", interaction["answer"])
                assert winner in numbers
                assert len(numbers) < 2 or winner != (min(numbers) if larger else max(numbers))
            if interaction["intent"] in ("state", "update"):
                numbers |= {int(word) for word in re.findall(r"\b\d\d+\b", interaction["query"])}
            elif interaction["intent"] == "tool_result":
                numbers |= {int(word) for word in re.findall(r'"(\d\d+)"', interaction["tool_use"])}
    assert seen > 50


def test_sums_are_right():
    for interactions in episodes("medium"):
        for interaction in interactions:
            if interaction["intent"] == "sum":
                x, y, total = map(int, re.search(r"(\d+) plus (\d+) is (\d+)", interaction["answer"]).groups())
                assert x + y == total


def test_a_summary_tells_every_fact_that_holds():
    seen = 0
    for interactions in episodes(summary_share=1.0):
        known: dict[str, str] = {}
        for _, interaction, recall in turns(interactions[:-1]):
            if interaction["intent"] == "recall":
                known[recall["slot"]] = recall["value"]
        last = interactions[-1]
        if last["intent"] != "summary":
            continue
        told = {recall["slot"]: recall["value"] for recall in last["recall"]}
        changed = {i for i, interaction in enumerate(interactions) if interaction["intent"] == "update"}
        if not changed:
            seen += 1
            assert known.items() <= told.items(), interactions
    assert seen > 30


def test_tools_get_a_remembered_argument_and_their_result_is_asked_for_later():
    calls = results = 0
    for interactions in episodes(tool_share=0.2):
        for position, interaction in enumerate(interactions):
            if interaction["intent"] != "tool_call":
                continue
            calls += 1
            arguments = json.loads(interaction["tool_call"])
            assert interaction["recall"][0]["value"] in arguments.values()
            result = interactions[position + 1]
            assert "query" not in result
            (slot, value), *_ = json.loads(result["tool_use"]).items()
            for later in interactions[position + 2 :]:
                if later["intent"] == "recall" and later["recall"][0]["slot"] == slot:
                    results += later["recall"][0]["value"] == value
                    assert later["recall"][0]["value"] == value
    assert calls > 80
    assert results > 30


def test_an_instruction_shapes_the_answer():
    ends = {"End with over.": "Over.", "Sign as your helper.": "Your helper.", "Begin with sir.": "Sir!"}
    seen = 0
    for interactions in episodes(internal_share=0.3):
        for interaction in interactions:
            if "internal" in interaction:
                seen += 1
                assert ends[interaction["internal"]] in interaction["answer"]
    assert seen > 100


def test_a_thought_holds_what_the_answer_needs():
    for interactions in episodes("small", think_share=1.0):
        for interaction in interactions:
            if interaction["intent"] in ("recall", "hop", "count", "history"):
                assert all(mentions(recall["value"], interaction["think"]) for recall in interaction["recall"])


def test_the_record_has_the_parts_the_template_knows():
    for interactions in episodes("medium", count=60):
        for interaction in interactions:
            assert ("query" in interaction) != ("tool_use" in interaction)
            assert interaction["answer"][-1] in ".!?"
            assert not re.search(r"[{}]|  ", interaction.get("query", "") + interaction["answer"])
