"""Making a prepared folder: records are read and checked once, tokenised by several processes, written in order."""

import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rxt_jax.data.config import FileData
from rxt_jax.data.faults import ReadReport
from rxt_jax.data.prepared import EncodedRecord, PreparedWriter, encode_record
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import read_records

__all__ = ["prepare"]

_CHUNK = 256
_CHUNKS_AHEAD = 4


def prepare(data: FileData, encoder: RowEncoder, folder: str | Path, *, workers: int = 0) -> dict[str, Any]:
    """Tokenise files into a new folder and return its manifest; memory does not grow with the files.

    The result does not depend on `workers`. Raises what reading the files raises, and leaves no manifest then. Settings
    with `subword_sampling` are a `ValueError`: a run of theirs could not train on the folder.
    """
    if encoder.config.subword_sampling:
        raise ValueError(
            f"data.subword_sampling = {encoder.config.subword_sampling:g} cuts texts anew whenever they are read, but "
            f"prepared rows are made once. Train on the files themselves, or prepare with subword_sampling = 0."
        )
    report = ReadReport()
    dtype = "uint16" if max(encoder.tokenizer.vocab_size, encoder.config.text_length + 1) < 1 << 16 else "uint32"
    writer = PreparedWriter(folder)
    records = _without_preferences(read_records(data, report, writer.folder / "quarantine.jsonl"))
    for encoded in _encode(records, encoder, dtype, workers):
        writer.write(encoded)
    about = {"source": data.path, "kind": data.kind, "read": report.as_json(), "encoded": encoder.report.as_json()}
    return writer.close(encoder, dtype, about)


def _without_preferences(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        if any("chosen" in each for each in record.get("interactions", ())):
            raise ValueError(
                "preference records have several answers per interaction and cannot be prepared; train on the file"
            )
        yield record


def _encode(
    records: Iterator[dict[str, Any]], encoder: RowEncoder, dtype: str, workers: int
) -> Iterator[EncodedRecord]:
    if not workers:
        yield from (encode_record(record, encoder, dtype) for record in records)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (encoder, dtype)) as pool:
        pending = deque()
        while True:
            # As many chunks under way as keep the workers busy, not as many as there are.
            while len(pending) < _CHUNKS_AHEAD * workers and (chunk := list(itertools.islice(records, _CHUNK))):
                pending.append(pool.submit(_encode_chunk, chunk))
            if not pending:
                return
            encoded, counts = pending.popleft().result()
            encoder.report.count(**counts)
            yield from encoded


_worker: tuple[RowEncoder, str] | None = None


def _start_worker(encoder: RowEncoder, dtype: str) -> None:
    global _worker
    _worker = (encoder, dtype)


def _encode_chunk(records: Sequence[Mapping[str, Any]]) -> tuple[list[EncodedRecord], dict[str, Any]]:
    assert _worker is not None
    encoder, dtype = _worker
    return [encode_record(record, encoder, dtype) for record in records], encoder.report.take()
