"""Records out of files of every kind are the same records; what is broken or stale is named."""

import gzip
import importlib
import json
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter
from small import dialogue_tokenizer

from rxt_jax.cli.main import main
from rxt_jax.data.config import DataConfig, DialogueData, FaultPolicy, FileData, MixedData, PartData
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.faults import RecordError
from rxt_jax.data.loader import EpisodeBatches, TextBatches
from rxt_jax.data.passages import passage
from rxt_jax.data.prepared import MANIFEST
from rxt_jax.data.preparing import prepare
from rxt_jax.data.readers import data_files, read_raw
from rxt_jax.data.row_reader import RowReader
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.recipe import from_json, to_json

RECORDS = [
    {"id": "a", "interactions": [{"query": "Größe?", "answer": "1,80 m"}, {"query": "And now?", "tool_call": "{}"}]},
    {"id": "b", "interactions": [{"tool_use": "ok", "think": "good", "answer": "Done."}]},
    {"id": "c", "interactions": [{"query": "One", "answer": "two\u2028three"}]},
]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def write_arrow(path, make):
    table = pyarrow.Table.from_pylist(RECORDS)
    with make(str(path), table.schema) as writer:
        writer.write_table(table)


def write_array_record(path):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for line in LINES.splitlines():
        writer.write(line)
    writer.close()


WRITERS = {
    "episodes.jsonl": lambda path: path.write_bytes(LINES),
    "episodes.ndjson.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "episodes.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES)),
    "episodes.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path),
    "file.arrow": lambda path: write_arrow(path, pyarrow.ipc.new_file),
    "stream.arrow": lambda path: write_arrow(path, pyarrow.ipc.new_stream),
    "episodes.feather": lambda path: pyarrow.feather.write_feather(pyarrow.Table.from_pylist(RECORDS), path),
    "episodes.array_record": write_array_record,
}


def episodes_of(path, **options):
    source = open_source(FileData(path=str(path), **options))
    assert source.report is not None and source.size is not None
    return [source.episode(number) for number in range(source.size)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert episodes_of(tmp_path / name) == RECORDS


def test_folders_and_globs_are_read_in_the_order_of_their_names(tmp_path):
    for number, name in enumerate(("2/b.jsonl.gz", "1/a.parquet", "1/z.jsonl", "1/_skipped.jsonl", "readme.md")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        record = RECORDS[1] | {"id": str(number)}
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
        else:
            line = (json.dumps(record) + "\n").encode()
            path.write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    assert [each["id"] for each in episodes_of(tmp_path)] == ["1", "2", "0"]
    assert [each["id"] for each in episodes_of(tmp_path / "*" / "*.jsonl*")] == ["3", "2", "0"]


def test_texts_are_records_of_one_text_and_no_episodes(tmp_path):
    (tmp_path / "texts.txt").write_text("First line.\n\nSecond line.\n")
    data = FileData(path=str(tmp_path / "texts.txt"), kind="text")
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig())
    batch = TextBatches(open_source(data), encoder, batch_size=2, seed=0)[0]
    texts = {encoder.tokenizer.decode(row[mask][1:-1]) for row, mask in zip(batch.ids, batch.token_mask, strict=True)}
    assert texts == {"First line.", "Second line."}
    with pytest.raises(ValueError, match="only stage 1 can use"):
        EpisodeBatches(open_source(data), encoder, batch_size=2, seed=0)[0]


@pytest.mark.parametrize("name", ["episodes.ndjson.gz", "episodes.jsonl.zst", "episodes.parquet", "file.arrow"])
def test_a_damaged_file_is_named_and_not_read_short(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(RecordError, match=name):
        episodes_of(path)


def test_bad_rows_of_any_format_are_named_by_place(tmp_path):
    table = pyarrow.Table.from_pylist([RECORDS[0], {"id": "x", "interactions": []}])
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(RecordError, match=r"p\.parquet, row 1: the episode is empty"):
        episodes_of(tmp_path / "p.parquet")
    tolerant = FaultPolicy(mode="tolerant", max_rate=0.6, quarantine=str(tmp_path / "bad.jsonl"))
    assert len(episodes_of(tmp_path / "p.parquet", faults=tolerant)) == 1
    assert json.loads((tmp_path / "bad.jsonl").read_text())["reason"] == "empty_episode"


def test_what_is_no_data_is_said_to_be_none(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    for path, message in (
        (tmp_path / "notes.md", "cannot tell the format"),
        (tmp_path, "holds no file of records"),
        (tmp_path / "nothing*.jsonl", "matches no file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            data_files(path)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    WRITERS["episodes.jsonl.zst"](tmp_path / "e.jsonl.zst")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"needs zstandard; install it with: pip install 'rxt-jax\[files\]'"):
        list(read_raw(tmp_path / "e.jsonl.zst"))
    with pytest.raises(ValueError, match=r"pip install 'rxt-jax\[datasets\]'"):
        list(read_raw("hub:me/chats"))
    with pytest.raises(ValueError, match="expected hub:NAME"):
        list(read_raw("hub:me/chats:a:b:c"))


def test_a_dataset_of_the_hub_library_is_read_from_its_folder(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra rxt-jax[datasets]")
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_bytes(LINES)
    assert episodes_of(f"hub:{tmp_path / 'saved'}") == RECORDS
    assert episodes_of(f"hub:{tmp_path / 'files'}:train") == RECORDS
    assert episodes_of(tmp_path / "saved") == RECORDS  # its Arrow files need no extra
    turned = [{"interactions": {"query": ["a", "b"], "answer": ["c", "d"]}}]
    datasets.Dataset.from_list(turned).save_to_disk(tmp_path / "turned")
    rows = [{"query": "a", "answer": "c"}, {"query": "b", "answer": "d"}]
    assert episodes_of(f"hub:{tmp_path / 'turned'}") == [{"interactions": rows}]


def test_parts_hold_out_and_keep(tmp_path):
    (tmp_path / "e.jsonl").write_bytes(LINES)
    whole = FileData(path=str(tmp_path / "e.jsonl"))
    part, rest = (open_source(PartData(source=whole, share=0.34, rest=rest)) for rest in (False, True))
    assert [part.episode(n)["id"] for n in range(part.size or 0)] == ["b", "c"]
    assert [rest.episode(n)["id"] for n in range(rest.size or 0)] == ["a"]
    assert part.fingerprint != rest.fingerprint
    assert part.text(2 * 5) == open_source(whole).text(1 + 3 * 5)


def test_a_recipe_keeps_its_sources():
    data = DataConfig(
        source=MixedData(sources=(FileData(path="x", fields={"query": "q"}), DialogueData()), weights=(1, 3))
    )
    assert from_json(json.loads(json.dumps(to_json(data)))) == data
    with pytest.raises(ValueError, match="one weight for each"):
        MixedData(sources=(DialogueData(), DialogueData()), weights=(1,))


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "e.jsonl").write_bytes(LINES)
    dialogue_tokenizer().save(tmp_path / "tokenizer")
    arguments = ["data", "prepare", str(tmp_path / "e.jsonl"), str(tmp_path / "ready")]
    assert main([*arguments, "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    return tmp_path / "ready"


def test_a_prepared_folder_has_its_records_and_says_what_is_in_it(prepared, capsys):
    assert episodes_of(prepared) == RECORDS
    source = open_source(FileData(path=str(prepared)))
    raw = open_source(FileData(path=str(prepared.parent / "e.jsonl")))
    assert [source.text(n) for n in range(9)] == [raw.text(n) for n in range(9)]
    manifest = json.loads((prepared / MANIFEST).read_text())
    assert (manifest["records"], manifest["episodes"]["rows"], manifest["read"]["read"]) == (3, 4, 3)
    assert manifest["tokenizer"] == dialogue_tokenizer().fingerprint
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig())
    tokens = sum(len(row.ids) for record in RECORDS for row in encoder.episode(record))
    assert manifest["episodes"]["tokens"] == tokens


def test_preparing_with_processes_writes_the_same_bytes(prepared):
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig())
    prepare(FileData(path=str(prepared.parent / "e.jsonl")), encoder, prepared.parent / "again", workers=1)
    for file in prepared.iterdir():
        assert (prepared.parent / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert encoder.report.rows == 7


class OtherTokenizer:
    def __init__(self):
        self.__dict__.update(dialogue_tokenizer().__dict__)
        self.fingerprint = "another"

    encode = lambda self, text: dialogue_tokenizer().encode(text)  # noqa: E731


def test_a_stale_folder_is_refused_with_the_remedy(prepared):
    tokenizer, config = dialogue_tokenizer(), DataConfig()

    def open_with(tokenizer, config):
        EpisodeBatches(open_source(FileData(path=str(prepared))), RowEncoder(tokenizer, config), batch_size=2, seed=0)

    open_with(tokenizer, replace(config, max_interactions=3, sort_pool=2, length_buckets=(8,)))
    for other, message in (
        ((tokenizer, replace(config, max_length=40)), r"another max_length: 32, this run has 40"),
        ((tokenizer, replace(config, train_eos=False)), r"another train_eos: True, this run has False"),
        ((OtherTokenizer(), config), "another tokenizer"),
    ):
        with pytest.raises(ValueError, match=message + r".*rxt data prepare .*e\.jsonl NEW_FOLDER"):
            open_with(*other)
    manifest = json.loads((prepared / MANIFEST).read_text())
    (prepared / MANIFEST).write_text(json.dumps(manifest | {"rows": manifest["rows"] | {"probe": "old"}}))
    with pytest.raises(ValueError, match="another template or tokenizer code"):
        open_with(tokenizer, config)
    (prepared / MANIFEST).write_text(json.dumps(manifest | {"schema": 0}))
    with pytest.raises(ValueError, match=r"prepared with schema 0, this version reads 1.*rxt data prepare"):
        open_with(tokenizer, config)


def test_a_folder_that_is_not_whole_is_not_taken_for_one(prepared, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(LINES + b"{")
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig())
    with pytest.raises(RecordError, match="line 4"):
        prepare(FileData(path=str(tmp_path / "bad.jsonl")), encoder, tmp_path / "half")
    with pytest.raises(FileExistsError, match="not empty"):
        prepare(FileData(path=str(tmp_path / "e.jsonl")), encoder, tmp_path / "half")
    with pytest.raises((FileNotFoundError, RecordError)):
        episodes_of(tmp_path / "half")


class Mine(EpisodeSource):
    """A source as users write it."""

    size, fingerprint = len(RECORDS), "mine"

    def episode(self, visit):
        return RECORDS[visit % self.size]

    def text(self, visit):
        return passage(self.episode(visit), visit // self.size)


def batches_of(source, count=4):
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig(max_interactions=3))
    kinds = [kind(source, encoder, batch_size=2, seed=5) for kind in (EpisodeBatches, TextBatches)]
    return [leaf for kind in kinds for number in range(count) for leaf in kind[number] if leaf is not None]


def assert_same_batches(one, other):
    for mine, theirs in zip(batches_of(one), batches_of(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_source_of_one_s_own_is_read_like_a_file(prepared):
    assert_same_batches(Mine(), open_source(FileData(path=str(prepared.parent / "e.jsonl"))))
    assert (Mine().report, Mine().tokenizer_folder, Mine().stored_text(0)) == (None, None, None)


def test_what_is_made_of_prepared_folders_is_read_and_checked_like_one(prepared):
    """Rows that are there are taken and not made again, also behind a part and a mixture."""
    ready, raw = FileData(path=str(prepared)), FileData(path=str(prepared.parent / "e.jsonl"))

    def joined(data):
        part = PartData(source=data, share=0.4, rest=True)
        return open_source(MixedData(sources=(part, raw, data), weights=(2, 1, 1)))

    source, plain = joined(ready), joined(raw)
    assert_same_batches(source, plain)
    assert (source.tokenizer_folder, plain.tokenizer_folder) == (prepared, None)
    stored = [source.stored_episode(visit) for visit in range(6)]
    assert [each is None for each in stored] == [False, True, False] * 2
    assert [len(each.lengths) for each in stored if each is not None] == [2, 2, 2, 1]
    for data in (ready, PartData(source=ready, share=0.4)):
        with pytest.raises(ValueError, match="prepared with another max_length"):
            RowReader(open_source(data), RowEncoder(dialogue_tokenizer(), DataConfig(max_length=40)))
    with pytest.raises(ValueError, match="prepared with another tokenizer"):
        RowReader(source, RowEncoder(OtherTokenizer(), DataConfig()))
