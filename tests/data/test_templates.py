"""The template holds for any text: labels, parsing back, control tokens, cuts."""

import json

import pytest
import tokenizers
from golden_case import golden_path
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dialogue_tokenizer

from rxt_jax.compatibility import DataCompatibility
from rxt_jax.data.config import DataConfig
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.special_tokens import CONTROL_PIECES
from rxt_jax.data.template import (
    INPUT_BLOCKS,
    OUTPUT_BLOCKS,
    answer_ids,
    interaction_mode,
    interaction_parts,
    parse_interaction,
    prompt_ids,
)
from rxt_jax.data.tokenizer import JsonTokenizer, Tokenizer

GOLDEN = golden_path("data", "tokenizer.json").read_text(encoding="utf-8")
BYTE_LEVEL = JsonTokenizer(GOLDEN)
PARSING = DataCompatibility(parse_control_tokens_in_text=True)
CONTROLS = set(CONTROL_PIECES.values())

texts = st.text(max_size=25) | st.lists(st.sampled_from([*CONTROLS, "say ", "[", "]", " A", "é🙂"]), max_size=6).map(
    "".join
)
outputs = st.fixed_dictionaries({}, optional={name: texts for name in OUTPUT_BLOCKS})


@st.composite
def records(draw):
    """A record that passes the checks: one input, some output."""
    record = draw(outputs)
    record[draw(st.sampled_from(["answer", "tool_call"]))] = draw(texts.filter(bool))
    record[draw(st.sampled_from(["query", "tool_use"]))] = draw(texts.filter(bool))
    return record | draw(st.fixed_dictionaries({}, optional={"internal": texts}))


def some_tokenizer(number: int) -> Tokenizer:
    return (dialogue_tokenizer(), BYTE_LEVEL)[number]


def whole_row(record: dict, tokenizer: Tokenizer) -> list[int]:
    prompt, answer = interaction_parts(record, tokenizer.encode, tokenizer.special)
    return prompt + answer


def blocks_of(ids, special):
    """Tell for every token in which block it stands, from the ids alone."""
    names, block, found = special.names, None, []
    for identity in ids:
        name = names.get(identity)
        block = name if name in (*INPUT_BLOCKS, *OUTPUT_BLOCKS, "bos", "eos") else block
        found.append(block)
    return found


policies = st.sampled_from(["drop_record", "cut_input_first", "right", "longest_first"])


@settings(max_examples=150, deadline=None)
@given(records(), policies, st.integers(8, 60), st.booleans(), st.booleans(), st.sampled_from([0, 1]))
def test_targets_stand_in_output_blocks_only_and_the_account_is_complete(record, policy, length, control, eos, which):
    tokenizer = some_tokenizer(which)
    config = DataConfig(max_length=length, overlong=policy, train_control_tokens=control, train_eos=eos)
    encoder = RowEncoder(tokenizer, config)
    row = encoder.interaction(record)
    labels = row.label_list()
    assert len(labels) == len(row.ids) <= length
    assert encoder.report.rows == 1 == encoder.report.used + encoder.report.dropped.total()
    assert row.valid == (encoder.report.used == 1)
    if policy == "drop_record":
        assert row.valid == any(labels)
    if not row.valid:
        assert not any(labels)
        return
    for identity, block, target in zip(row.ids, blocks_of(row.ids, tokenizer.special), labels, strict=True):
        if block == "eos":
            assert target == eos
        elif identity in (tokenizer.special.think, tokenizer.special.answer, tokenizer.special.tool_call):
            assert target == control
        else:
            assert target == (block in OUTPUT_BLOCKS)


@settings(max_examples=100, deadline=None)
@given(records())
def test_a_row_parsed_back_is_the_record_it_was_written_from(record):
    tokenizer = dialogue_tokenizer()
    ids = whole_row(record, tokenizer)
    parsed = parse_interaction(ids, tokenizer.decode, tokenizer.special)
    assert parsed == {name: text for name, text in record.items() if text}
    assert interaction_mode(parsed) == interaction_mode(record)
    assert whole_row(parsed, tokenizer) == ids


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [2],
        [2, 5, 30],
        [5, 30, 3],
        [2, 30, 3],
        [2, 5, 30, 5, 30, 3],
        [2, 6, 30, 5, 30, 3],
        [2, 5, 9, 3],
        [2, 5, 4, 3],
    ],
)
def test_ids_that_the_template_cannot_write_are_not_parsed(ids):
    tokenizer = dialogue_tokenizer()
    with pytest.raises(ValueError, match=r"row|template|belong"):
        parse_interaction(ids, tokenizer.decode, tokenizer.special)


@settings(max_examples=150, deadline=None)
@given(texts, st.sampled_from([0, 1]))
def test_no_text_becomes_a_control_token(text, which):
    tokenizer = some_tokenizer(which)
    control = set(tokenizer.special.names) - {tokenizer.special.unk}
    assert not control & set(tokenizer.encode(text))


@settings(max_examples=100, deadline=None)
@given(records(), st.sampled_from([0, 1]))
def test_the_parts_joined_are_the_row_and_hold_each_control_token_once(record, which):
    tokenizer = some_tokenizer(which)
    special, encode = tokenizer.special, tokenizer.encode
    row = RowEncoder(tokenizer, DataConfig(max_length=1000)).interaction(record)
    prompt, answer = prompt_ids(record, encode, special), answer_ids(record, encode, special)
    assert (row.ids, row.prompt_length) == (prompt + answer, len(prompt))
    written = [
        name for name in ("bos", *INPUT_BLOCKS, *OUTPUT_BLOCKS, "eos") if record.get(name) or name in ("bos", "eos")
    ]
    assert [special.names[identity] for identity in row.ids if special.names.get(identity, "unk") != "unk"] == written


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["internal", "query", "think", "answer"]), st.text("abc .,\n", max_size=20)))
def test_the_parts_joined_are_the_published_text_tokenised_at_once(record):
    plain = tokenizers.Tokenizer.from_str(GOLDEN)
    pieces = "".join(
        CONTROL_PIECES[name] + record[name] for name in ("internal", "query", "think", "answer") if record.get(name)
    )
    ids = plain.encode(f"[BOS]{pieces}[EOS]", add_special_tokens=False).ids
    assert whole_row(record, BYTE_LEVEL) == ids


PIECES = ("the", "boat", "is", "green", "19", "[A]", "[Q]", "[EOS]", "[T]", "river", "é")
words = st.lists(st.sampled_from(PIECES), max_size=9).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(words, words, st.integers(6, 30))
def test_published_pairs_and_texts_are_those_of_the_library_itself(query, answer, length):
    plain = tokenizers.Tokenizer.from_str(GOLDEN)
    plain.enable_truncation(length, strategy="longest_first")
    options = {"template": "pair", "overlong": "longest_first", "compatibility": PARSING}
    encoder = RowEncoder(BYTE_LEVEL, DataConfig(max_length=length, text_length=length, **options))
    pair = (query, answer) if answer else (query,)
    assert encoder.interaction({"query": query, "answer": answer}).ids == plain.encode(*pair).ids
    assert encoder.text(query).ids == plain.encode(query).ids


@settings(max_examples=100, deadline=None)
@given(records(), st.integers(8, 40))
def test_cutting_the_input_first_keeps_the_whole_output_where_it_fits_and_the_end_of_the_question(record, length):
    tokenizer = dialogue_tokenizer()
    prompt, answer = interaction_parts(record, tokenizer.encode, tokenizer.special)
    row = RowEncoder(tokenizer, DataConfig(max_length=length, overlong="cut_input_first")).interaction(record)
    kept, control = row.ids[: row.prompt_length], len(tokenizer.special.names)
    assert kept[0] == prompt[0]
    if len(answer) + 2 <= length:
        assert row.ids[row.prompt_length :] == answer
        assert len(row.ids) == min(len(prompt) + len(answer), max(length, 2 + len(answer)))
    text = [identity for identity in kept if identity >= control]
    assert prompt[len(prompt) - len(text) :] == text or tokenizer.special.internal in kept
    asked = {tokenizer.special.query, tokenizer.special.tool_use} & set(kept)
    assert len(asked) == 1


def preference(chosen, rejected, **rest):
    return {"query": "what is it ?", "chosen": chosen, "rejected": rejected} | rest


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(records(), st.none() | outputs, st.none() | outputs), min_size=1, max_size=4), st.integers(8, 40)
)
def test_preference_rows(interactions, length):
    tokenizer, special = dialogue_tokenizer(), dialogue_tokenizer().special
    episode = []
    for record, rejected, neutral in interactions:
        chosen = {name: record.pop(name) for name in OUTPUT_BLOCKS if name in record}
        episode.append(record | {"chosen": chosen, "rejected": rejected or None, "neutral": neutral or None})
    encoder = RowEncoder(tokenizer, DataConfig(max_length=length))
    kinds = encoder.preference_episode({"interactions": episode})
    assert {len(rows) for rows in kinds} == {len(episode)}
    for interaction, chosen, rejected, neutral in zip(episode, *kinds, strict=True):
        assert chosen.valid
        assert not rejected.valid or interaction["rejected"]
        assert not neutral.valid or interaction["neutral"]
        for row in (chosen, rejected, neutral):
            assert len(row.ids) <= length
        if rejected.valid:
            assert chosen.ids != rejected.ids
            for row in (chosen, rejected):
                assert row.ids[: row.prompt_length] == chosen.ids[: chosen.prompt_length]
                assert row.ids[-1] == special.eos and any(row.label_list())
    report = encoder.report
    assert report.pairs == sum(bool(interaction["rejected"]) for interaction in episode)
    assert report.pairs - report.pairs_dropped.total() == sum(row.valid for row in kinds[1])


def test_a_rejected_answer_that_is_cut_away_is_not_scored_and_counted():
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig(max_length=14))
    long, short = {"answer": "word " * 30}, {"answer": "yes"}
    episode = {"interactions": [preference(short, {"answer": "no"}), preference(short, None), preference(short, short)]}
    rows = encoder.preference_episode(episode)
    assert [row.valid for row in rows[1]] == [True, False, False]
    asked_at_length = {"interactions": [preference(short, long) | {"query": "word " * 30}]}
    rows = encoder.preference_episode(asked_at_length)
    assert (rows[0][0].valid, rows[1][0].valid) == (True, False)
    assert encoder.report.pairs_dropped == {"answers are the same": 1, "answer cut away": 1}


def test_a_system_prompt_enters_memory_before_the_first_interaction_and_is_no_target():
    tokenizer = dialogue_tokenizer()
    episode = {"system": "Be brief.", "interactions": [{"query": "a", "answer": "b"}] * 3}
    encoder = RowEncoder(tokenizer, DataConfig(max_length=60, use_system_prompt=True, max_interactions=3))
    rows = encoder.episode(episode)
    assert len(rows) == 3 and encoder.report.interactions_left_out == 1
    assert rows[0].valid and not any(rows[0].label_list())
    assert tokenizer.decode(rows[0].ids) == "SYSTEM INSTRUCTIONS\n\nBe brief."
    assert len(encoder.episode({"interactions": episode["interactions"]})) == 3
    assert json.dumps(encoder.report.as_json())
