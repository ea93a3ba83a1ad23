"""Raw records from files of every kind, one after the other, each with the place where it stands.

    .jsonl .ndjson (one object per line)   .txt (one text per line)   both also .gz .zst
    .parquet   .arrow .feather   .array_record (one JSON object per record)

A path is a file, a folder (all such files in it, by name), a glob, or `hub:NAME[@REVISION][:SUBSET][:SPLIT]`
with a dataset's id or folder, which Hugging Face `datasets` reads (split `train` unless named), or
`sgd:FOLDER:SPLIT[:preferences]`, the published Schema-Guided Dialogue data (`rxt_jax.data.sgd`), or `babi:PATH` and
`sessions:PATH`, questions about stories and about chats of several sessions (`rxt_jax.data.question_sets`). What
cannot be read as a record comes out as a `RecordError` in its place, so that whoever reads decides what a bad line
costs.
"""

import gzip
import hashlib
import importlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rxt_jax.data.faults import RecordError
from rxt_jax.data.question_sets import (
    BABI_PREFIX,
    SESSIONS_PREFIX,
    babi_files,
    read_babi,
    read_sessions,
    session_files,
)
from rxt_jax.data.records import parse_json_lines, parse_text_lines
from rxt_jax.data.sgd import SGD_PREFIX, read_sgd, sgd_files
from rxt_jax.paths import as_path, files_below, files_matching, is_remote, local_copy

__all__ = ["SUFFIXES", "Raw", "data_files", "files_fingerprint", "read_raw"]

Raw = tuple[str, dict[str, Any] | RecordError]
"""Where a record stands (file and line, or file and row), and the record or what is wrong with it."""

_CHUNK = 1 << 20
_HUB = "hub:"


class _Published(NamedTuple):
    """A published layout: how its records are read, and the files that decide what they are."""

    read: Callable[[str], Iterator[Raw]]
    files: Callable[[str], list[Path]]


_PUBLISHED = {
    SGD_PREFIX: _Published(read_sgd, sgd_files),
    BABI_PREFIX: _Published(read_babi, babi_files),
    SESSIONS_PREFIX: _Published(read_sessions, session_files),
}


def read_raw(path: str | Path) -> Iterator[Raw]:
    """Yield every record of a file, folder or glob, in the order of the files' names."""
    if str(path).startswith(_HUB):
        yield from _read_hub(str(path))
        return
    if (published := _published(path)) is not None:
        yield from published.read(str(path))
        return
    for file in data_files(path):
        yield from _reader(file)(file)


def data_files(path: str | Path) -> list[Path]:
    """List the files that a path means; nothing to read is an error that says what was expected."""
    path = as_path(path)
    if path.is_file():
        _reader(path)
        return [path]
    if path.is_dir():
        found = (
            each for each in files_below(path) if not any(part[0] in "._" for part in each.relative_to(path).parts)
        )
    else:
        found = files_matching(str(path))
    files = sorted(each for each in found if each.is_file() and _suffix(each) in SUFFIXES)
    if not files:
        what = "holds no file of records" if path.is_dir() else "does not exist and matches no file"
        raise FileNotFoundError(f"{path} {what}; expected {', '.join(SUFFIXES)}, a folder of them, or a glob")
    return files


def files_fingerprint(path: str | Path) -> str:
    """Hash the content of the files, not their names: moved data are the same data."""
    digest = hashlib.sha256()
    if str(path).startswith(_HUB):
        return _open_hub(str(path))._fingerprint
    published = _published(path)
    files = data_files(path) if published is None else published.files(str(path))
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        digest.update(b"\0end of file\0")
    return digest.hexdigest()[:16]


def _published(path: str | Path) -> _Published | None:
    return next((layout for prefix, layout in _PUBLISHED.items() if str(path).startswith(prefix)), None)


def _suffix(path: Path) -> str:
    """Return the ending that says the format, `.jsonl` also of `episodes.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _reader(path: Path) -> Callable[[Path], Iterator[Raw]]:
    if _suffix(path) not in _READERS:
        raise ValueError(f"{path}: cannot tell the format by the ending; expected {', '.join(SUFFIXES)}")
    return _READERS[_suffix(path)]


def _open(path: Path) -> BinaryIO:
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path.open("rb") if is_remote(path) else path, "rb")  # type: ignore[return-value]
    if ending == ".zst":
        zstandard = _optional("zstandard", path)
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True))
    return path.open("rb")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield lines; a damaged archive is an error of the file, never a short file."""
    number = 0
    with _open(path) as stream:
        try:
            for line in stream:
                number += 1
                yield line
        except Exception as error:
            if isinstance(error, EOFError | OSError) or type(error).__name__ == "ZstdError":
                raise RecordError(
                    f"{path}, line {number + 1}", f"the archive is damaged: {error}", "archive"
                ) from error
            raise


def _read_json_lines(path: Path) -> Iterator[Raw]:
    return parse_json_lines(_lines(path), str(path))


def _read_text_lines(path: Path) -> Iterator[Raw]:
    return parse_text_lines(_lines(path), str(path))


def _read_parquet(path: Path) -> Iterator[Raw]:
    parquet = _optional("pyarrow.parquet", path)
    with _readable(path), local_copy(path) as copy, parquet.ParquetFile(copy) as file:
        yield from _rows(path, file.iter_batches())


def _read_arrow(path: Path) -> Iterator[Raw]:
    arrow, ipc = _optional("pyarrow", path), _optional("pyarrow.ipc", path)
    with _readable(path), local_copy(path) as copy, arrow.memory_map(str(copy)) as stream:
        try:
            reader = ipc.open_file(stream)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except arrow.ArrowInvalid:  # not the file format: the streaming one, which Hugging Face `datasets` writes
            stream.seek(0)
            batches = iter(ipc.open_stream(stream))
        yield from _rows(path, batches)


def _read_array_record(path: Path) -> Iterator[Raw]:
    from grain.sources import ArrayRecordDataSource

    with _readable(path), local_copy(path) as copy:
        source: Any = ArrayRecordDataSource([str(copy)])
        for number in range(len(source)):
            for _, found in parse_json_lines([source[number]], str(path)):
                yield f"{path}, record {number}", found


def _open_hub(path: str) -> Any:
    """Open a dataset of the hub, or of a folder as `datasets` writes it."""
    name, subset, split = _hub_parts(path)
    datasets = _optional("datasets", path, "datasets")
    name, _, revision = name.partition("@")
    if (Path(name) / "state.json").is_file():
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, subset, split=split, revision=revision or None)


def _hub_parts(path: str) -> tuple[str, str | None, str]:
    """Take `hub:NAME:SUBSET:SPLIT` apart; one word after the name is the split."""
    name, *rest = path.removeprefix(_HUB).split(":")
    if not name or len(rest) > 2:
        raise ValueError(f"{path!r}: expected hub:NAME[@REVISION][:SUBSET][:SPLIT], for example hub:me/chats:train")
    return name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train"


def _read_hub(path: str) -> Iterator[Raw]:
    for number, row in enumerate(_open_hub(path)):
        yield f"{path}, row {number}", _without_nulls({name: _turned(value) for name, value in row.items()})


def _turned(value: Any) -> Any:
    """Make a list of structs again of what `datasets` may turn inside out, a struct of equally long lists."""
    if not (isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values())):
        return value
    columns = list(value.values())
    if len({len(column) for column in columns}) > 1:
        return value
    return [dict(zip(value, fields, strict=True)) for fields in zip(*columns, strict=True)]


def _rows(path: Path, batches: Iterator[Any]) -> Iterator[Raw]:
    """Turn columns into records; a field that is null in a row is absent from its record."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            yield f"{path}, row {number}", _without_nulls(row)
            number += 1


def _without_nulls(row: Any) -> Any:
    """Columnar files give every struct all the fields that any row has."""
    if isinstance(row, dict):
        return {key: _without_nulls(value) for key, value in row.items() if value is not None}
    if isinstance(row, list):
        return [_without_nulls(value) for value in row]
    return row


class _readable:  # noqa: N801  (a context manager, used like a function)
    """Say which file it was that a library could not read."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        foreign = kind is not None and kind.__module__.split(".")[0] in ("pyarrow", "array_record")
        if foreign or (isinstance(error, RuntimeError) and not isinstance(error, RecordError)):
            message = f"cannot be read as {_suffix(self._path)}: {error}"
            raise RecordError(str(self._path), message, "unreadable") from error


def _optional(module: str, path: Path | str, extra: str = "files") -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.split(".")[0]
        raise ValueError(
            f"{path}: reading it needs {package}; install it with: pip install 'rxt-jax[{extra}]'"
        ) from None


_READERS: dict[str, Callable[[Path], Iterator[Raw]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".txt": _read_text_lines,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".array_record": _read_array_record,
}

SUFFIXES = tuple(_READERS)
"""The formats, by the ending of a file's name; text and JSON lines also with `.gz` or `.zst` after it."""
