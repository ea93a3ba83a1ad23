"""Packing, collating and splitting against the published classes, all cases exactly.

Source:
docs/method.md §13.5, §13.9 and §13.10.
"""

import itertools

import numpy as np
import pytest
from golden_case import golden_json, golden_path, none_found

from rxt_jax.compatibility import DataCompatibility
from rxt_jax.data.config import DataConfig, PackingConfig
from rxt_jax.data.loader import make_episode_batch
from rxt_jax.data.packing import PackingPlan, stack_packed
from rxt_jax.data.records import check_record
from rxt_jax.data.row_reader import Item
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import split_range
from rxt_jax.data.tokenizer import JsonTokenizer

IGNORED = -100
TOKENIZER = JsonTokenizer(golden_path("data", "tokenizer.json").read_text(encoding="utf-8"))
SPECIAL = TOKENIZER.special
PARSING = DataCompatibility(parse_control_tokens_in_text=True)


def cases(name: str):
    found = [pytest.param(case, id=case["case"]) for case in golden_json("data", f"{name}_cases.json")["cases"]]
    return pytest.mark.parametrize("case", found or none_found(f"{name}_cases.json has no case"))


@cases("packing")
def test_published_packing_has_the_same_rows_in_the_same_order_and_drops_the_same(case):
    options, texts = case["options"], case["texts"]
    length = options["max_seq_len"]
    encoder = RowEncoder(TOKENIZER, DataConfig(text_length=length, compatibility=PARSING))
    rows = [encoder.text(text) for text in texts]
    assert [len(row.ids) for row in rows] == case["token_lengths_after_truncation"]
    dropped = []
    plan = PackingPlan(
        lambda position: Item(lambda: [rows[position % len(rows)]]),
        lambda position: position // len(rows),
        PackingConfig(buffer=options["prefetch_size"], shortest=options["min_seq_len"]),
        batch_size=options["batch_size"],
        length=length,
        seed=0,
        drop=lambda item, reason: dropped.append(item),
        published=True,
    )
    epoch = [plan.batch(update) for update in range(len(case["expected_batches"]))]
    for batch, expected in zip(epoch, case["expected_batches"], strict=True):
        bins = [[item.rows[0] for item in items] for items in batch]
        ids, token_mask, loss_mask, documents = stack_packed(bins, length, SPECIAL, published=True)
        assert documents is None
        assert ids.tolist() == expected["decoder_input_ids"] == expected["decoder_targets"]
        assert token_mask.astype(int).tolist() == expected["attention_mask"]
        assert (loss_mask | (np.arange(length) == 0) == token_mask).all()  # padding: `loss_on_padding`
        drawn = np.array(expected["bernoulli_draw"], bool) & token_mask
        assert np.where(drawn, SPECIAL.mask, ids).tolist() == expected["encoder_input_ids"]
        assert np.where(drawn, ids, IGNORED).tolist() == expected["encoder_labels"]
    shown = sum(len(items) for batch in epoch for items in batch)
    assert shown + len(dropped) == len(rows)
    # The next update begins the next epoch.
    following = [item.rows[0].ids for items in plan.batch(len(epoch)) for item in items]
    assert following == [item.rows[0].ids for items in epoch[0] for item in items]


@cases("collate")
def test_published_collating_cuts_to_the_shortest_and_ours_keeps_the_rest(case):
    width = case["options"]["max_seq_len"]
    encoder = RowEncoder(TOKENIZER, DataConfig(max_length=2 * width, compatibility=PARSING))
    episodes = [check_record(episode, "here", "episode") for episode in case["episodes"]]
    rows = [encoder.episode(episode) for episode in episodes]
    expected = [case["expected"], *case["expected"]["interactions"]]
    shortest, longest = min(map(len, rows)), max(map(len, rows))
    assert len(expected) == shortest
    batch = make_episode_batch(rows, encoder, shortest)
    for i, number in itertools.product(range(shortest), range(len(rows))):
        parts = [expected[i][part] for part in ("query", "answer")]
        sizes = [sum(part["attention_mask"][number]) for part in parts]
        joined = [part["input_ids"][number][:size] for part, size in zip(parts, sizes, strict=True)]
        assert batch.ids[i, number, : sum(sizes)].tolist() == joined[0] + joined[1]
        assert batch.token_mask[i, number].sum() == sum(sizes)
        assert np.flatnonzero(batch.loss_mask[i, number]).tolist() == list(range(sizes[0], sum(sizes)))
    whole = make_episode_batch(rows, encoder, longest)
    np.testing.assert_array_equal(whole.ids[:shortest], batch.ids)
    assert whole.valid.sum(axis=0).tolist() == [len(each) for each in rows]


@cases("subset")
def test_a_split_loses_nothing(case):
    rest, part = split_range(case["n"], case["size"], from_start=case["from_start"])
    assert list(rest) == case["recommended_remaining"]
    assert list(part) == case["recommended_subset"]
