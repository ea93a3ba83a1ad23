"""Records, template, rows, batches: nothing is lost silently, nothing depends on what came before."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dialogue_tokenizer

from rxt_jax.data.config import DataConfig, DialogueData, FileData, PackingConfig
from rxt_jax.data.faults import RecordError
from rxt_jax.data.loader import ConversationBatches, EpisodeBatches, InteractionBatches, TextBatches
from rxt_jax.data.preparing import prepare
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.records import check_interaction
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.special_tokens import ABSENT, CONTROL_PIECES
from rxt_jax.data.template import interaction_parts
from rxt_jax.data.tokenizer import StreamDecoder, load_tokenizer

CONTROL_IDS = set(range(len(CONTROL_PIECES)))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_the_tokenizer_and_never_becomes_control(text):
    tokenizer = dialogue_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not CONTROL_IDS & set(ids)


@pytest.mark.parametrize("piece", CONTROL_PIECES.values())
def test_written_control_tokens_are_plain_characters(piece):
    tokenizer = dialogue_tokenizer()
    ids = tokenizer.encode(f"say {piece} twice {piece}")
    assert not CONTROL_IDS & set(ids)
    assert tokenizer.decode(ids) == f"say {piece} twice {piece}"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_streamed_pieces_join_to_the_whole(text):
    tokenizer = dialogue_tokenizer()
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(identity) for identity in tokenizer.encode(text)]
    assert "".join([*pieces, decoder.close()]) == text


def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = dialogue_tokenizer()
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("My cat is Tom.") == tokenizer.encode("My cat is Tom.")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path / "nowhere")


def test_values_that_answers_recall_weigh_as_the_config_says():
    """Every annotated value, and no other token: what weighs more spells the value."""
    tokenizer = dialogue_tokenizer()
    config = DataConfig(max_length=64, value_weight=3.0)
    source = open_source(DialogueData(split="iid", seed=2))
    common = {"batch_size": 8, "seed": 0}
    batch = EpisodeBatches(source, RowEncoder(tokenizer, config), **common)[0]
    plain = EpisodeBatches(source, RowEncoder(tokenizer, replace(config, value_weight=1.0)), **common)
    assert plain[0].loss_weights is None
    np.testing.assert_array_equal(batch.ids, plain[0].ids)
    np.testing.assert_array_equal(np.unique(batch.loss_weights), [1.0, 3.0])
    heavy = batch.loss_weights == 3.0
    assert not (heavy & ~batch.loss_mask).any()
    for row in range(8):
        episode = source.episode(plain._order.visit(row))
        for number, interaction in enumerate(episode["interactions"][: len(batch.ids)]):
            found = tokenizer.decode(batch.ids[number, row][heavy[number, row]].tolist())
            values = {each["value"] for each in interaction.get("recall") or ()}
            assert bool(values) == bool(found)
            assert all(value.casefold() in found.casefold() for value in values)


def test_weights_that_cannot_be_are_refused(tmp_path):
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="value_weight must be positive"):
            DataConfig(value_weight=weight)
    tokenizer, config = dialogue_tokenizer(), DataConfig(max_length=64)
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"interactions": [{"query": "Hello.", "answer": "Hi."}]}) + "\n")
    prepare(FileData(path=str(records)), RowEncoder(tokenizer, config), tmp_path / "prepared")
    prepared = open_source(FileData(path=str(tmp_path / "prepared")))
    weighed = RowEncoder(tokenizer, replace(config, value_weight=2.0))
    with pytest.raises(ValueError, match=r"data\.value_weight = 2 .*do not keep them apart"):
        EpisodeBatches(prepared, weighed, batch_size=1, seed=0)


def parts_as_names(**interaction):
    tokenizer = dialogue_tokenizer()
    names = tokenizer.special.names
    parts = interaction_parts(interaction, tokenizer.encode, tokenizer.special)
    return tuple([names[i] for i in part if i in names] for part in parts)


@pytest.mark.parametrize(
    ("interaction", "prompt", "answer"),
    [
        ({"query": "a", "answer": "b"}, ["bos", "query"], ["answer", "eos"]),
        ({"query": "a", "think": "c", "answer": "b"}, ["bos", "query"], ["think", "answer", "eos"]),
        ({"internal": "i", "query": "a", "answer": "b"}, ["bos", "internal", "query"], ["answer", "eos"]),
        ({"tool_use": "r", "answer": "b"}, ["bos", "tool_use"], ["answer", "eos"]),
        ({"query": "a", "answer": None, "tool_call": "{}"}, ["bos", "query"], ["tool_call", "eos"]),
        ({"query": "a", "answer": "b", "tool_call": "{}"}, ["bos", "query"], ["answer", "tool_call", "eos"]),
    ],
)
def test_the_template(interaction, prompt, answer):
    assert parts_as_names(**interaction) == (prompt, answer)


GOOD = {"query": "hello", "answer": "hi"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2, column 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object, got list"),
        ('{"id": 1}', "line 2: field 'interactions' must be a list"),
        ('{"interactions": []}', "line 2: the episode is empty"),
        ('{"interactions": [{"answer": "x"}]}', "line 2, interaction 0: has neither 'query' nor 'tool_use'"),
        ('{"interactions": [{"query": "a", "tool_use": "b", "answer": "x"}]}', "has both 'query' and 'tool_use'"),
        ('{"interactions": [{"query": "a"}]}', "has neither 'answer' nor 'tool_call'"),
        ('{"interactions": [{"query": 3, "answer": "x"}]}', "field 'query' must be text or null, got int"),
        ('{"interactions": ["x"]}', "interaction 0: expected an object, got str"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    file = tmp_path / "episodes.jsonl"
    file.write_text(json.dumps({"interactions": [GOOD]}) + "\n" + line + "\n")
    with pytest.raises(RecordError, match=r"episodes\.jsonl") as caught:
        open_source(FileData(path=str(file)))
    assert message in str(caught.value)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        open_source(FileData(path=str(tmp_path / "nothing.jsonl")))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(RecordError, match="holds no record"):
        open_source(FileData(path=str(tmp_path / "empty.jsonl")))


def test_annotations_are_kept_and_never_shown():
    tokenizer = dialogue_tokenizer()
    recall = [{"slot": "cat", "value": "Tom", "distance": 1}]
    check_interaction(GOOD | {"recall": recall}, "here")
    encoder = RowEncoder(tokenizer, DataConfig())
    assert encoder.interaction(GOOD | {"recall": recall}) == encoder.interaction(GOOD)


LONG = {"query": "word " * 30, "answer": "a short answer"}


@pytest.mark.parametrize("policy", ["drop_record", "cut_input_first", "right", "longest_first", "error"])
def test_over_long_interactions_follow_the_policy_and_are_counted(policy):
    tokenizer = dialogue_tokenizer()
    encoder = RowEncoder(tokenizer, DataConfig(max_length=16, overlong=policy))
    if policy == "error":
        with pytest.raises(ValueError, match="more than max_length = 16"):
            encoder.interaction(LONG)
        return
    row = encoder.interaction(LONG)
    assert len(row.ids) <= 16
    assert row.ids[0] == tokenizer.special.bos
    reasons = {"longest_first": "input and output", "cut_input_first": "input", "right": "input and output"}
    dropped = policy == "drop_record"
    assert encoder.report.cut == ({} if dropped else {reasons[policy]: 1})
    assert encoder.report.dropped == ({"no label left": 1} if dropped else {})
    assert row.valid != dropped
    assert any(row.label_list()) == (policy in ("cut_input_first", "longest_first"))
    if policy == "cut_input_first":
        answer = interaction_parts(LONG, tokenizer.encode, tokenizer.special)[1]
        assert row.ids[row.prompt_length :] == answer
        assert row.ids[1] == tokenizer.special.query


@pytest.fixture
def encoder():
    return RowEncoder(dialogue_tokenizer(), DataConfig(max_length=96, max_interactions=6))


@pytest.mark.parametrize("kind", [EpisodeBatches, InteractionBatches, TextBatches])
def test_a_batch_is_a_function_of_its_number(encoder, kind):
    source = open_source(DialogueData())
    batches = kind(source, encoder, batch_size=4, seed=3)
    resumed = read_ahead(kind(source, encoder, batch_size=4, seed=3), 5)
    for number in range(5, 9):
        for mine, theirs in zip(batches[number], next(resumed), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(batches[0].ids, batches[1].ids)


def test_ragged_episodes_are_masked_and_never_repeated(encoder):
    source = open_source(DialogueData())
    batch = EpisodeBatches(source, encoder, batch_size=8, seed=0)[0]
    for row in range(8):
        rows = encoder.episode(source.episode(row))
        np.testing.assert_array_equal(batch.valid[:, row], np.arange(6) < len(rows))
        for turn, each in enumerate(rows):
            assert batch.ids[turn, row, : len(each.ids)].tolist() == each.ids
            np.testing.assert_array_equal(batch.token_mask[turn, row], np.arange(96) < len(each.ids))
            labels = (np.arange(96) >= each.prompt_length) & (np.arange(96) < len(each.ids))
            np.testing.assert_array_equal(batch.loss_mask[turn, row], labels)
    filler = ~batch.valid
    assert not batch.token_mask[filler].any()
    assert not batch.loss_mask[filler].any()


def write_episodes(path, lengths):
    with path.open("w") as file:
        for number, length in enumerate(lengths):
            interactions = [{"query": f"say {number} {turn}", "answer": str(number)} for turn in range(length)]
            file.write(json.dumps({"id": number, "interactions": interactions}) + "\n")


def test_an_epoch_of_a_file_shows_every_episode_once_and_the_next_in_another_order(tmp_path, encoder):
    write_episodes(tmp_path / "e.jsonl", [1] * 12)
    source = open_source(FileData(path=str(tmp_path / "e.jsonl")))
    batches = EpisodeBatches(source, encoder, batch_size=4, seed=0)
    rows = [tuple(batches[u].ids[0, b].tolist()) for u in range(6) for b in range(4)]
    assert len(set(rows[:12])) == len(set(rows[12:])) == 12
    assert rows[:12] != rows[12:]


def test_sorted_pools_hold_the_same_episodes_with_less_filler(tmp_path, encoder):
    write_episodes(tmp_path / "e.jsonl", list(np.random.default_rng(0).integers(1, 7, 64)))
    source = open_source(FileData(path=str(tmp_path / "e.jsonl")))

    def first_epoch(pool):
        config = replace(encoder.config, sort_pool=pool)
        batches = EpisodeBatches(source, RowEncoder(encoder.tokenizer, config), batch_size=8, seed=0)
        return [batches[u] for u in range(8)]

    plain, pooled = first_epoch(1), first_epoch(8)
    used = [sum(int(batch.valid.any(axis=1).sum()) for batch in batches) for batches in (plain, pooled)]
    assert used[1] < used[0]
    content = [sorted(tuple(batch.ids[0, b]) for batch in batches for b in range(8)) for batches in (plain, pooled)]
    assert content[0] == content[1]


def test_a_source_smaller_than_a_batch_is_refused(tmp_path, encoder):
    write_episodes(tmp_path / "e.jsonl", [1, 1])
    source = open_source(FileData(path=str(tmp_path / "e.jsonl")))
    with pytest.raises(ValueError, match="fewer than batch_size = 4"):
        EpisodeBatches(source, encoder, batch_size=4, seed=0)


def test_masked_tokens_are_real_ones_at_the_given_rate(encoder):
    batches = TextBatches(open_source(DialogueData()), encoder, batch_size=64, seed=0)
    real, masked = 0, 0
    for number in range(8):
        batch = batches[number]
        assert not (batch.mlm_mask & ~batch.token_mask).any()
        real, masked = real + batch.token_mask.sum(), masked + batch.mlm_mask.sum()
    assert abs(masked / real - 0.15) < 0.02


def test_the_id_of_mask_is_the_tokenizers(encoder):
    """Of packed rows too; a tokenizer without one is refused where an encoder has to restore tokens, only there."""
    source = open_source(DialogueData())
    trained = encoder.tokenizer

    def batches(kind, identity, **changes):
        tokenizer = copy.copy(trained)
        tokenizer.special = replace(trained.special, mask=identity)
        return kind(source, RowEncoder(tokenizer, replace(encoder.config, **changes)), batch_size=8, seed=0)

    for packing in (None, PackingConfig()):
        batch = batches(TextBatches, trained.vocab_size - 1, packing=packing)[0]
        assert batch.mlm_mask.any() and batch.masked_ids.dtype == batch.ids.dtype
        np.testing.assert_array_equal(batch.masked_ids[batch.mlm_mask], trained.vocab_size - 1)
        np.testing.assert_array_equal(batch.masked_ids[~batch.mlm_mask], batch.ids[~batch.mlm_mask])
    for kind in (TextBatches, InteractionBatches):
        with pytest.raises(ValueError, match=r"no \[MASK\]"):
            batches(kind, ABSENT)
    assert batches(ConversationBatches, ABSENT)[0].masked_ids is None
