"""Batches depend on seed and number alone: not on workers, processes, interruptions, or on who tokenised."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small import dialogue_tokenizer

from rxt_jax.data.config import DataConfig, DialogueData, FileData, MixedData, PackingConfig
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import (
    ConversationBatches,
    EpisodeBatches,
    InteractionBatches,
    PreferenceBatches,
    Shard,
    TextBatches,
)
from rxt_jax.data.order import make_order
from rxt_jax.data.packing import PackingPlan, first_fit_decreasing
from rxt_jax.data.prepared import row_settings
from rxt_jax.data.preparing import prepare
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.row_reader import Item
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.sources import open_source

EPISODES, ROWS = 37, 4
BUCKETS = {"length_buckets": (32, 48), "interaction_buckets": (3, 5), "sort_pool": 3}
PACKING = {"packing": PackingConfig(buffer=11, shortest=4), "text_length": 96, "max_length": 96}
SAMPLED = {"subword_sampling": 0.2}
KINDS = {
    "texts": (TextBatches, {}, {}),
    "interactions": (InteractionBatches, {}, {}),
    "conversations": (ConversationBatches, {}, {}),
    "episodes": (EpisodeBatches, {}, {}),
    "sorted episodes": (EpisodeBatches, {"sort_pool": 4}, {}),
    "bucketed texts": (TextBatches, BUCKETS, {}),
    "bucketed episodes": (EpisodeBatches, BUCKETS, {}),
    "packed texts": (TextBatches, PACKING, {}),
    "packed interactions": (InteractionBatches, PACKING, {}),
    "preferences": (PreferenceBatches, {}, {}),
    "bucketed preferences": (PreferenceBatches, BUCKETS, {}),
    "windows": (EpisodeBatches, {"interaction_buckets": (4,), "sort_pool": 2}, {"window": 2}),
    "sampled texts": (TextBatches, SAMPLED, {}),
    "sampled conversations": (ConversationBatches, SAMPLED, {}),
    "sampled bucketed episodes": (EpisodeBatches, BUCKETS | SAMPLED, {}),
    "sampled packed interactions": (InteractionBatches, PACKING | SAMPLED, {}),
    "sampled windows": (EpisodeBatches, {"interaction_buckets": (4,), "sort_pool": 2} | SAMPLED, {"window": 2}),
}
PREPARABLE = [kind for kind in KINDS if KINDS[kind][0] is not PreferenceBatches and "sampled" not in kind]
kinds = pytest.mark.parametrize("kind", KINDS)


def make_file(path):
    source = open_source(DialogueData())
    with path.open("w") as file:
        for number in range(EPISODES):
            episode = source.episode(number)
            episode["interactions"] = episode["interactions"][: 1 + number % 7]
            file.write(json.dumps(episode | {"system": f"Be kind to number {number}."}) + "\n")
    return FileData(path=str(path))


def preferences_of(data):
    """The same conversations with every second answer preferred to another one."""
    path = Path(data.path).with_suffix(".preferences.jsonl")
    lines = []
    for line in Path(data.path).read_text().splitlines():
        episode = json.loads(line)
        for place, each in enumerate(episode["interactions"]):
            each["chosen"] = {"answer": each.pop("answer")}
            each["rejected"] = {"answer": "No."} if place % 2 else None
        lines.append(json.dumps(episode) + "\n")
    path.write_text("".join(lines))
    return replace(data, path=str(path), kind="preference_episode")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_file(tmp_path_factory.mktemp("data") / "episodes.jsonl")


def make(kind, data, shard=None, seed=5, **changes):
    batches, options, arguments = KINDS[kind]
    data = preferences_of(data) if batches is PreferenceBatches else data
    config = replace(DataConfig(max_length=96, max_interactions=7, text_length=40), **options | changes)
    encoder = RowEncoder(dialogue_tokenizer(), config)
    return batches(open_source(data), encoder, batch_size=ROWS, seed=seed, shard=shard, **arguments)


def fingerprint(batch) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        digest.update(str((leaf.dtype, leaf.shape)).encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


@kinds
def test_a_run_interrupted_anywhere_goes_on_with_the_same_batches(data, kind):
    whole = make(kind, data)
    expected = [fingerprint(whole[update]) for update in range(60)]
    assert len(set(expected)) > 50
    for update in random.Random(0).sample(range(58), 20):
        state = json.loads(json.dumps(whole.state(update)))
        resumed = make(kind, data)
        resumed.restore(state)
        ahead = read_ahead(resumed, update)
        assert [fingerprint(next(ahead)) for _ in range(2)] == expected[update : update + 2]
    other = make(kind, data, seed=6)
    assert fingerprint(other[0]) != expected[0]


@kinds
@pytest.mark.parametrize("count", [2, 4])
def test_the_shares_of_several_processes_make_up_the_batch(data, kind, count):
    axis = 1 if KINDS[kind][0] in (EpisodeBatches, PreferenceBatches) else 0
    whole = make(kind, data)
    # Rows that are not neighbours, as those of a mesh may be.
    parts = [make(kind, data, Shard(tuple(range(index, ROWS, count)))) for index in range(count)]
    for update in (0, 7, 25):
        shares = [part[update] for part in parts]
        order = np.argsort([row for index in range(count) for row in range(index, ROWS, count)])
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis).take(order, axis), *shares)  # noqa: B023
        assert fingerprint(joined) == fingerprint(whole[update])


def test_a_process_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"rows of a batch, at least one and counted from 0, got \(\)"):
        Shard(())


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_worker_processes_change_no_batch_and_send_their_counts_home(data, workers):
    for kind in ("windows", "sampled windows") if workers > 1 else ("packed texts",):
        alone, helped = make(kind, data), make(kind, data)
        ahead = read_ahead(helped, 3, workers=workers, buffer=4)
        assert [fingerprint(next(ahead)) for _ in range(9)] == [fingerprint(alone[3 + number]) for number in range(9)]
        ahead.close()
        assert helped.report.rows > 0


@pytest.mark.parametrize("kind", PREPARABLE)
def test_prepared_rows_make_the_same_batches(data, kind, tmp_path):
    changes = {"use_system_prompt": True, "train_eos": False}
    raw = make(kind, data, **changes)
    encoder = RowEncoder(raw._encoder.tokenizer, replace(raw._encoder.config, sort_pool=1, max_interactions=1))
    prepare(data, encoder, tmp_path / "prepared")
    prepared = make(kind, FileData(path=str(tmp_path / "prepared")), **changes)
    for update in (0, 5, 23):
        assert fingerprint(prepared[update]) == fingerprint(raw[update])


def test_a_state_of_before_the_switches_moved_goes_on_and_its_settings_still_count(data):
    """Versions before wrote `published` into `packing`, and no `compatibility`."""
    batches = make("packed texts", data)
    state = batches.state(3)
    settings = {name: value for name, value in state["settings"].items() if name != "compatibility"}
    settings |= {"end_every_answer": True, "packing": settings["packing"] | {"published": False}}
    make("packed texts", data).restore(state | {"settings": settings})
    settings["packing"]["buffer"] = 12
    with pytest.raises(ValueError, match=r"data\.packing\.buffer = 12, this one has 11"):
        make("packed texts", data).restore(state | {"settings": settings})


def test_manifests_of_prepared_rows_name_their_settings_as_ever(data):
    names = row_settings(make("texts", data)._encoder).keys()
    assert "parse_control_tokens_in_text" in names
    assert not {"compatibility", "one_eos_per_conversation", "packed_documents_see_each_other", "packing"} & names


def test_another_source_order_or_setting_is_refused(data, tmp_path):
    state = make("texts", data).state(12)
    assert state["epoch"] == 12 * ROWS // (EPISODES - EPISODES % ROWS)
    other = make_file(tmp_path / "other.jsonl")
    (tmp_path / "other.jsonl").write_text((tmp_path / "other.jsonl").read_text().replace("Be kind", "Be brief"))
    with pytest.raises(ValueError, match=r"trained on other data.*cannot go on from update 12"):
        make("texts", other).restore(state)
    with pytest.raises(ValueError, match="the same data in another order"):
        make("texts", data, seed=6).restore(state)
    with pytest.raises(ValueError, match=r"data\.text_length = 40, this one has 41"):
        make("texts", data, text_length=41).restore(state)
    with pytest.raises(ValueError, match=r"data\.subword_sampling = 0\.0, this one has 0\.1"):
        make("texts", data, subword_sampling=0.1).restore(state)
    make_file(tmp_path / "moved.jsonl")
    make("texts", FileData(path=str(tmp_path / "moved.jsonl"))).restore(state)


@kinds
def test_bucketed_and_packed_batches_lose_no_record(data, kind):
    """One epoch shows what an unsorted, unpacked one shows: every record once."""
    batches = make(kind, data)
    readers = {TextBatches: "text", ConversationBatches: "conversation", PreferenceBatches: "preferences"}
    visits = []
    name = readers.get(KINDS[kind][0], "record")
    original = getattr(batches._reader, name)
    setattr(batches._reader, name, lambda visit: visits.append(visit) or original(visit))
    for update in range(40):
        batches[update]
    first = [visit for visit in visits if visit < EPISODES]
    left_over = 0 if "packed" in kind else EPISODES % ROWS
    assert len(first) == len(set(first)) == EPISODES - left_over


def test_buckets_are_the_smallest_that_hold_a_batch(data):
    batches = make("bucketed episodes", data)
    shapes = set()
    for update in range(24):
        batch = batches[update]
        shapes.add(batch.ids.shape)
        interactions, _, length = batch.ids.shape
        used = (batch.valid.any(axis=1).sum(), batch.token_mask.any(axis=(0, 1)).sum())
        for size, most, sizes in ((interactions, used[0], (3, 5, 7)), (length, used[1], (32, 48, 96))):
            assert size == next(each for each in sizes if most <= each)
    assert 1 < len(shapes) <= 9


def test_a_window_has_its_past_before_it_and_no_targets_there(data):
    batches = make("windows", data)
    records = open_source(data)
    rows = {}
    for number in range(EPISODES):
        encoded = batches._encoder.episode(records.episode(number))
        rows[number] = [tuple(row.ids) for row in encoded]
    starts = set()
    for update in range(20):
        batch = batches[update]
        past = batch.ids.shape[0] - 2
        assert not batch.loss_mask[:past].any()
        for place in range(ROWS):
            shown = np.flatnonzero(batch.valid[:, place])
            assert (np.diff(shown) == 1).all()
            ids = [tuple(batch.ids[i, place, batch.token_mask[i, place]].tolist()) for i in shown]
            found = [each for each in rows.values() if ids[: len(each)] == each[: len(ids)]]
            assert found  # the past begins with the episode
            before = int(sum(shown < past))
            starts.add(before)
            assert batch.loss_mask[past:, place].any(axis=-1).sum() == len(shown) - before
            assert len(shown) - before == min(2, len(found[0]))
    assert starts == {0, 1, 2, 3, 4, 5}


@settings(max_examples=30, deadline=None)
@example(70_000, 0, 7)
@given(st.integers(1, 300), st.integers(0, 2**31), st.integers(1, 7))
def test_every_epoch_is_a_permutation_and_another_one(size, seed, batch_size):
    class Source(EpisodeSource):
        pass

    Source.size = size
    if size < batch_size:
        with pytest.raises(ValueError, match="fewer than batch_size"):
            make_order(Source, seed, batch_size)
        return
    order = make_order(Source, seed, batch_size)
    used = size - size % batch_size
    epochs = [[order.visit(position) for position in range(k * used, (k + 1) * used)] for k in range(3)]
    for k, epoch in enumerate(epochs):
        assert {visit // size for visit in epoch} == {k} == {order.epoch(k * used), order.epoch((k + 1) * used - 1)}
        items = [visit % size for visit in epoch]
        assert len(set(items)) == used
    if size > 30:
        assert [visit % size for visit in epochs[0]] != [visit % size for visit in epochs[1]]


def test_a_mixture_keeps_its_weights_and_the_epochs_of_its_parts(data, tmp_path):
    lines = (tmp_path / "few.jsonl").open("w")
    lines.writelines(json.dumps({"interactions": [{"query": "q", "answer": str(n)}]}) + "\n" for n in range(5))
    lines.close()
    few = FileData(path=str(tmp_path / "few.jsonl"))
    source = open_source(MixedData(sources=(few, DialogueData(), data), weights=(1, 2, 5)))
    order = make_order(source, 3)
    visits = [order.visit(position) for position in range(800)]
    by_part = [[visit // 3 for visit in visits if visit % 3 == part] for part in range(3)]
    assert [len(part) for part in by_part] == [100, 200, 500]
    assert by_part[1] == list(range(200))
    for part, size in ((0, 5), (2, EPISODES)):
        for epoch in range(100 // size):
            assert sorted(by_part[part][epoch * size : (epoch + 1) * size]) == list(
                range(epoch * size, (epoch + 1) * size)
            )
    assert source.episode(visits[visits.index(0)])["interactions"][0]["query"] == "q"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(0, 1))
def test_first_fit_decreasing_places_every_document_where_it_fits(lengths, seam):
    bins = first_fit_decreasing(lengths, 20, seam)
    assert sorted(number for each in bins for number in each) == list(range(len(lengths)))
    fills = [sum(lengths[n] for n in each) + seam * (len(each) - 1) for each in bins]
    assert max(fills) <= 20
    for later, each in enumerate(bins):  # a row was only begun because no earlier one had room
        for fill in fills[:later]:
            assert fill + lengths[each[0]] + seam > 20


def test_what_a_buffer_leaves_over_goes_into_the_next():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 30, 500)

    def item(position):
        return Item(lambda: [Row([position] * int(lengths[position]), 1)])

    plan = PackingPlan(
        item, lambda _: 0, PackingConfig(buffer=50, shortest=4), batch_size=3, length=32, seed=0, drop=lambda *_: None
    )
    shown = [each.rows[0].ids[0] for update in range(60) for items in plan.batch(update) for each in items]
    assert len(shown) == len(set(shown))
    reached = plan.state(60)
    missing = set(range(reached["position"])) - set(shown) - {int(n) for n in np.flatnonzero(lengths < 4)}
    assert missing <= set(reached["carried"]) | set(range(reached["position"] - 60, reached["position"]))
    tokens = sum(int(lengths[number]) for number in shown)
    assert tokens / (60 * 3 * 32) > 0.93
