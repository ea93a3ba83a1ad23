"""Where records come from: the embedded generator, files of any kind, prepared folders, parts and mixtures of them.

What all of them answer is in `rxt_jax.data.episode_source`. Sources that are made of others only say which of them a
visit belongs to.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rxt_jax.data.config import DataSource, DialogueData, FileData, MixedData, PartData
from rxt_jax.data.dialogues import Dialogues
from rxt_jax.data.dialogues.preferences import PreferenceDialogues
from rxt_jax.data.episode_source import EpisodeSource, StoredRows
from rxt_jax.data.faults import ReadReport, RecordError
from rxt_jax.data.passages import passage
from rxt_jax.data.prepared import PreparedEpisodes, is_prepared
from rxt_jax.data.readers import files_fingerprint, read_raw
from rxt_jax.data.records import check_records
from rxt_jax.data.rows import RowEncoder

__all__ = ["open_source", "read_records", "split_range"]


class GeneratedEpisodes(EpisodeSource):
    """The embedded dialogues as a source."""

    def __init__(self, data: DialogueData):
        dialogues = Dialogues(data.spec, data.seed, data.split)
        self.dialogues = PreferenceDialogues(dialogues) if data.preferences else dialogues
        described = asdict(data)
        if not data.preferences:
            del described["preferences"]  # the data that they are without the field
        self.fingerprint = _hash(described)

    def episode(self, visit: int) -> dict[str, Any]:
        return self.dialogues.episode(visit)

    def text(self, visit: int) -> str:
        return self.dialogues.text(visit)


class FileEpisodes(EpisodeSource):
    """The records of files, all of them checked when they are opened and kept in memory.

    What does not fit there is prepared first (`rxt data prepare`).
    """

    def __init__(self, data: FileData, quarantine: Path | None = None):
        report = ReadReport()
        self.records = list(read_records(data, report, quarantine))
        self.report, self.size = report, len(self.records)
        self.fingerprint = _hash([files_fingerprint(data.path), data.kind, data.fields])

    def episode(self, visit: int) -> dict[str, Any]:
        return self.records[visit % len(self.records)]

    def text(self, visit: int) -> str:
        """Return a text, or two neighbouring interactions of an episode; they wander with the epoch."""
        epoch, item = divmod(visit, len(self.records))
        return passage(self.records[item], epoch)


class _JoinedEpisodes(EpisodeSource):
    """Records of other sources, its parts."""

    @abstractmethod
    def locate(self, visit: int) -> tuple[EpisodeSource, int]:
        """Say which part a visit belongs to, and which of that part's visits it is."""

    def episode(self, visit: int) -> dict[str, Any]:
        source, visit = self.locate(visit)
        return source.episode(visit)

    def text(self, visit: int) -> str:
        source, visit = self.locate(visit)
        return source.text(visit)

    def stored_episode(self, visit: int) -> StoredRows | None:
        source, visit = self.locate(visit)
        return source.stored_episode(visit)

    def stored_text(self, visit: int) -> StoredRows | None:
        source, visit = self.locate(visit)
        return source.stored_text(visit)

    def check_rows(self, encoder: RowEncoder, *, sampled: bool) -> None:
        for part in self.parts:
            part.check_rows(encoder, sampled=sampled)


class PartEpisodes(_JoinedEpisodes):
    """Some records of another source."""

    def __init__(self, data: PartData, quarantine: Path | None = None):
        whole = open_source(data.source, quarantine)
        count = whole.size or 0
        rest, held_out = split_range(count, data.share, from_start=data.from_start)
        self._items = rest if data.rest else held_out
        if not self._items:
            raise ValueError(f"{data.source.path}: {data.share:g} of {count} records is none. Choose another share.")
        self.parts, self.size, self.report = (whole,), len(self._items), whole.report
        self.tokenizer_folder = whole.tokenizer_folder
        self.fingerprint = _hash([whole.fingerprint, self._items.start, self._items.stop])

    def locate(self, visit: int) -> tuple[EpisodeSource, int]:
        epoch, item = divmod(visit, len(self._items))
        return self.parts[0], self._items[item] + (self.parts[0].size or 0) * epoch


class MixedEpisodes(_JoinedEpisodes):
    """Several sources at once, without end; visit `v · n + j` is visit v of source j of n."""

    def __init__(self, data: MixedData, quarantine: Path | None = None):
        def place(number: int) -> Path | None:
            return quarantine and quarantine.with_stem(f"{quarantine.stem}-{number}")

        self.parts = tuple(open_source(each, place(number)) for number, each in enumerate(data.sources))
        self.weights = data.weights
        reports = [part.report for part in self.parts if part.report is not None]
        self.report = ReadReport.joined(reports) if reports else None
        folders = (part.tokenizer_folder for part in self.parts)
        self.tokenizer_folder = next((folder for folder in folders if folder is not None), None)
        self.fingerprint = _hash([[part.fingerprint for part in self.parts], data.weights])

    def locate(self, visit: int) -> tuple[EpisodeSource, int]:
        visit, number = divmod(visit, len(self.parts))
        return self.parts[number], visit


def open_source(data: DataSource, quarantine: Path | None = None) -> EpisodeSource:
    """Open a source; a file that cannot be used raises here, with its line.

    `quarantine` is the file for records that tolerant reading rejects, unless the source names one itself.
    """
    match data:
        case FileData() if is_prepared(data.path):
            return PreparedEpisodes(data.path)
        case FileData():
            return FileEpisodes(data, quarantine)
        case PartData():
            return PartEpisodes(data, quarantine)
        case MixedData():
            return MixedEpisodes(data, quarantine)
    return GeneratedEpisodes(data)


def read_records(data: FileData, report: ReadReport, quarantine: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield the checked records of files one by one; none at all is an error."""
    checked = check_records(
        read_raw(data.path), data.kind, fields=data.fields, faults=data.faults, report=report, quarantine=quarantine
    )
    found = False
    for _, record in checked:
        found = True
        yield record
    if not found:
        raise RecordError(data.path, "holds no record; expected one per line", "empty_file")


def split_range(count: int, share: float, *, from_start: bool = False) -> tuple[range, range]:
    """Cut `count` records in two: the rest, and the part of about `share`; no record is in both or in neither.

    The cut is int(count · share) from the start, int(count · (1 − share)) else. Source: docs/method.md, eq. 62.
    """
    if from_start:
        cut = int(count * share)
        return range(cut, count), range(cut)
    cut = int(count * (1 - share))
    return range(cut), range(cut, count)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
