"""The texts that preference, reinforcement and benchmark data become. Source: docs/method.md §13.2 and §13.7."""

import json
from pathlib import Path

import pytest

from rxt_jax.data.rows import Row, join_rows
from rxt_jax.data.special_tokens import CONTROL_PIECES, SpecialTokens
from rxt_jax.data.template import answer_ids, interaction_parts, prompt_ids

CASE = json.loads((Path(__file__).parent / "rl" / "rl_dataset_texts.json").read_text(encoding="utf-8"))
SPECIAL = SpecialTokens()
FIRST = 100  # ids of characters begin here


def encode(text):
    return [FIRST + ord(character) for character in text]


def written(ids):
    return "".join(CONTROL_PIECES[SPECIAL.names[each]] if each < FIRST else chr(each - FIRST) for each in ids)


@pytest.mark.parametrize("number", range(len(CASE["dmpo"])))
def test_texts_of_a_preference(number):
    case = CASE["dmpo"][number]
    interaction = case["interaction"]
    assert written(prompt_ids(interaction, encode, SPECIAL)) == case["query_text"]
    for kind in ("accepted", "rejected", "neutral"):
        if interaction.get(kind) is not None:
            assert written(answer_ids(interaction[kind], encode, SPECIAL)) == case[f"{kind}_text"]
        else:
            assert case[f"{kind}_text"] is None


def interactions():
    """The first interaction of a published episode stands outside of its list."""
    episode = CASE["mrl_episode"]
    return [{name: episode[name] for name in ("query", "answer")}, *episode["interactions"]]


def test_texts_of_an_episode():
    parts = [part for each in interactions() for part in interaction_parts(each, encode, SPECIAL)]
    assert [written(part) for part in parts] == CASE["mrl_texts_in_order"]


def test_texts_of_the_benchmark_without_memory():
    """The past as published: no end between turns, and the question last."""
    rows, texts = [], []
    for interaction in interactions():
        prompt, answer = interaction_parts(interaction, encode, SPECIAL)
        if rows:
            past, _ = join_rows(rows, 1000, end_every_answer=False)
            texts.append(written([*past[:-1], *prompt[1:]]))
        texts += [written(prompt), written(answer)]
        rows.append(Row([*prompt, *answer], len(prompt)))
    assert texts == CASE["mrq_llm_texts_in_order"]
