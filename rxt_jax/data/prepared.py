"""Rows tokenised once: a folder of ArrayRecord files with a manifest that says what they were made of.

    manifest.json       schema, tokenizer, row settings, counts, lengths
    tokenizer.*         the tokenizer itself
    records.array_record      the checked records as JSON, for evaluation and inspection
    episodes.*  texts.*       rows of ids, their lengths, and where each record's rows begin

`episodes` has one row per interaction, `texts` one per passage that stage 1 may show. Lengths and offsets are
plain arrays, mapped and not read, so that planning batches costs no memory. A folder that does not fit the
run (another tokenizer, row length or schema) is refused with the command that makes it anew.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.config import BATCH_FIELDS
from rxt_jax.data.episode_source import EpisodeSource, StoredRows
from rxt_jax.data.faults import ReadReport
from rxt_jax.data.passages import count_passages, passage
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.paths import as_path, local_only

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "EncodedRecord",
    "PreparedEpisodes",
    "PreparedWriter",
    "encode_record",
    "is_prepared",
    "row_settings",
]

SCHEMA = 1
"""Raised whenever the files below change their meaning."""

MANIFEST = "manifest.json"
_GROUPS = ("episodes", "texts")
_PROBE = {"query": "What is 12 + 7?", "answer": "19, of course."}


class EncodedRecord(NamedTuple):
    """A record as it is written: JSON, and the packed rows of its interactions and passages with their lengths.

    `first` is the number of rows before the first interaction (a system prompt).
    """

    record: bytes
    episodes: bytes
    first: int
    episodes_lengths: list[int]
    texts: bytes
    texts_lengths: list[int]


def is_prepared(path: str | Path) -> bool:
    """Tell a prepared folder from any other."""
    return (as_path(path) / MANIFEST).is_file()


def row_settings(encoder: RowEncoder) -> dict[str, Any]:
    """List everything that decides what rows look like; two equal ones give equal rows.

    The probe is what the template and the tokenizer make of a fixed interaction, so that a change of either
    that no setting shows is noticed too.
    """
    fields = dataclasses.asdict(encoder.config)
    fields |= fields.pop("compatibility")  # manifests list its switches beside the others
    settings = {name: value for name, value in fields.items() if name not in BATCH_FIELDS}
    probe = RowEncoder(encoder.tokenizer, encoder.config).interaction(_PROBE)
    settings["probe"] = hashlib.sha256(np.array(probe.ids, np.int64).tobytes()).hexdigest()[:16]
    return json.loads(json.dumps(settings))


def encode_record(record: Mapping[str, Any], encoder: RowEncoder, dtype: str) -> EncodedRecord:
    """Tokenise everything that training may ask of a record."""
    interactions = record.get("interactions", ())
    count = encoder.leading_rows(record) + len(interactions) if interactions else 0
    rows = [encoder.unit(record, number) for number in range(count)]
    texts = [encoder.text(passage(record, number)) for number in range(count_passages(record))]
    return EncodedRecord(
        json.dumps(record, ensure_ascii=False).encode(),
        _pack(rows, dtype),
        len(rows) - len(interactions),
        [len(row.ids) for row in rows],
        _pack(texts, dtype),
        [len(row.ids) for row in texts],
    )


def _pack(rows: list[Row], dtype: str) -> bytes:
    """Write rows as integers: how many, then length, prompt length and flags of each, then ids (and labels) of each.

    Flag 1: the row is valid, flag 2: it has labels of its own.
    """
    head, parts = [len(rows)], []
    for row in rows:
        head += [len(row.ids), row.prompt_length, int(row.valid) + 2 * (row.labels is not None)]
        parts += [row.ids] if row.labels is None else [row.ids, row.labels]
    return np.concatenate([np.array(head, dtype), *(np.asarray(part, dtype) for part in parts)]).tobytes()


def _unpack(data: bytes, dtype: str) -> list[Row]:
    values = np.frombuffer(data, dtype)
    count = int(values[0])
    heads = values[1 : 1 + 3 * count].reshape(count, 3).tolist()
    rows, start = [], 1 + 3 * count
    for length, prompt_length, flags in heads:
        ids: Any = values[start : start + length]  # an array serves as the list it is copied from
        start += length
        labels: Any = None
        if flags & 2:
            labels = values[start : start + length] > 0
            start += length
        rows.append(Row(ids, prompt_length, bool(flags & 1), labels))
    return rows


class PreparedWriter:
    """Write encoded records into a folder; the manifest comes last, so that half a folder is none."""

    def __init__(self, folder: str | Path):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.folder = local_only(folder, "its files are written piece by piece", "Prepare it in a local folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; name a new folder, or delete this one")
        self._writers = {
            name: ArrayRecordWriter(str(self.folder / f"{name}.array_record"), f"group_size:1,{compression}")
            for name, compression in (("records", "zstd"), ("episodes", "uncompressed"), ("texts", "uncompressed"))
        }
        self._lengths = {name: (self.folder / f"{name}.lengths").open("wb") for name in _GROUPS}
        self._offsets = {name: (self.folder / f"{name}.offsets").open("wb") for name in _GROUPS}
        self._first = (self.folder / "episodes.first").open("wb")
        self._ends = dict.fromkeys(_GROUPS, 0)
        self._tokens = dict.fromkeys(_GROUPS, 0)
        self.count = 0
        for file in self._offsets.values():
            file.write(np.int64(0).tobytes())

    def write(self, encoded: EncodedRecord) -> None:
        """Append one record."""
        self._writers["records"].write(encoded.record)
        self._first.write(np.uint8(encoded.first).tobytes())
        for name in _GROUPS:
            lengths = np.array(getattr(encoded, f"{name}_lengths"), np.int32)
            self._writers[name].write(getattr(encoded, name))
            self._lengths[name].write(lengths.tobytes())
            self._ends[name] += len(lengths)
            self._tokens[name] += int(lengths.sum())
            self._offsets[name].write(np.int64(self._ends[name]).tobytes())
        self.count += 1

    def close(self, encoder: RowEncoder, dtype: str, about: dict[str, Any]) -> dict[str, Any]:
        """Finish the files and write the manifest, which is returned."""
        for writer in self._writers.values():
            writer.close()
        for file in (*self._lengths.values(), *self._offsets.values(), self._first):
            file.close()
        groups = {}
        for name in _GROUPS:
            lengths = np.fromfile(self.folder / f"{name}.lengths", np.int32)
            percentiles = np.percentile(lengths, (50, 90, 99, 100)).astype(int).tolist() if len(lengths) else []
            groups[name] = {
                "rows": self._ends[name],
                "tokens": self._tokens[name],
                "lengths": dict(zip(("50 %", "90 %", "99 %", "100 %"), percentiles, strict=False)),
            }
        encoder.tokenizer.save(self.folder)
        manifest = {
            "schema": SCHEMA,
            "tokenizer": encoder.tokenizer.fingerprint,
            "rows": row_settings(encoder),
            "dtype": dtype,
            "records": self.count,
            **groups,
            **about,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        return manifest


class PreparedEpisodes(EpisodeSource):
    """A prepared folder as a source: records as any other source has them, and their rows without tokenising."""

    def __init__(self, folder: str | Path):
        from grain.sources import ArrayRecordDataSource

        self.folder = self.tokenizer_folder = local_only(
            folder,
            "the arrays of prepared data are mapped into memory",
            "Copy the folder to a local disk of every host and name the copy",
        )
        self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        if self.manifest.get("schema") != SCHEMA:
            raise ValueError(
                f"{folder} was prepared with schema {self.manifest.get('schema')}, this version reads {SCHEMA}. "
                f"{self._remedy()}"
            )
        self.size = self.manifest["records"]
        self.fingerprint = hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:16]
        read = self.manifest["read"]
        self.report = ReadReport(
            read=read["read"],
            used=read["used"],
            dropped=Counter(read["dropped"]),
            quarantined=Counter(read["quarantined"]),
            unknown_fields=Counter(read["unknown_fields"]),
        )
        self._dtype = self.manifest["dtype"]
        self._files = {
            name: ArrayRecordDataSource([str(self.folder / f"{name}.array_record")]) for name in ("records", *_GROUPS)
        }
        self._lengths = {name: _mapped(self.folder / f"{name}.lengths", np.int32) for name in _GROUPS}
        self._first = _mapped(self.folder / "episodes.first", np.uint8)
        self._offsets = {name: _mapped(self.folder / f"{name}.offsets", np.int64) for name in _GROUPS}

    def check_rows(self, encoder: RowEncoder, *, sampled: bool) -> None:
        """Refuse rows that another tokenizer or other settings made."""
        if sampled:
            raise ValueError(
                f"data.subword_sampling = {encoder.config.subword_sampling:g} cuts texts anew whenever they are read, "
                f"but the rows of {self.folder} were made once. Train on the files that it was prepared from, or set "
                f"data.subword_sampling = 0."
            )
        if encoder.config.value_weight != 1.0:
            raise ValueError(
                f"data.value_weight = {encoder.config.value_weight:g} weighs values that records name, but the rows "
                f"of {self.folder} do not keep them apart. Train on the files that it was prepared from, or set "
                f"data.value_weight = 1."
            )
        mine = {"tokenizer": encoder.tokenizer.fingerprint} | row_settings(encoder)
        theirs = {"tokenizer": self.manifest["tokenizer"]} | self.manifest["rows"]
        for name in sorted(mine.keys() | theirs.keys(), key=lambda name: (name == "probe", name)):
            if mine.get(name) != theirs.get(name):
                what = "template or tokenizer code" if name == "probe" else name
                raise ValueError(
                    f"{self.folder} was prepared with another {what}: {theirs.get(name)!r}, this run has "
                    f"{mine.get(name)!r}. {self._remedy()}"
                )

    def episode(self, visit: int) -> dict[str, Any]:
        """Return a record as it was checked."""
        return json.loads(self._files["records"][visit % self.manifest["records"]])

    def text(self, visit: int) -> str:
        """Return the passage that this visit shows."""
        epoch, item = divmod(visit, self.manifest["records"])
        record = self.episode(item)
        return passage(record, epoch % count_passages(record))

    def stored_episode(self, visit: int) -> StoredRows:
        """Return the rows of all interactions."""
        item = visit % self.manifest["records"]
        lengths = self._lengths_of("episodes", item)
        if not len(lengths):
            raise ValueError(f"{self.folder} holds plain texts, which only stage 1 can use")
        return StoredRows(lengths, int(self._first[item]), lambda: self._rows_of("episodes", item))

    def stored_text(self, visit: int) -> StoredRows:
        """Return the row of the passage that this visit shows."""
        epoch, item = divmod(visit, self.manifest["records"])
        lengths = self._lengths_of("texts", item)
        number = epoch % len(lengths)
        return StoredRows(lengths[number : number + 1], 0, lambda: [self._rows_of("texts", item)[number]])

    def _lengths_of(self, group: str, item: int) -> np.ndarray:
        start, stop = self._offsets[group][item : item + 2]
        return self._lengths[group][start:stop]

    def _rows_of(self, group: str, item: int) -> list[Row]:
        return _unpack(self._files[group][item], self._dtype)

    def _remedy(self) -> str:
        origin = self.manifest.get("source", "DATA")
        return f"Prepare it anew: rxt data prepare {origin} NEW_FOLDER, with this run's tokenizer and data settings"


def _mapped(path: Path, dtype: Any) -> np.ndarray:
    """Map an array; an empty file cannot be mapped."""
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
