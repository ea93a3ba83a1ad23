"""Places of files: local ones, and object stores (`gs://`, `s3://`) through `etils.epath`.

An object store cannot append to an object or rename one, has no empty folders, and libraries that open files by name
cannot open its objects. An object is written whole or not at all. So files that grow or that replace others are
written here, and what a library insists on finding on disk is copied here. Local files are what they are without all
this: paths of `pathlib`.
"""

import contextlib
import functools
import glob
import importlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

__all__ = [
    "LineFile",
    "Outbox",
    "absolute",
    "as_path",
    "check_place_for_file",
    "file_size",
    "files_below",
    "files_matching",
    "is_remote",
    "local_copy",
    "local_only",
    "read_json",
    "replace_file",
]

_FILE_SYSTEMS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
"""Scheme → its name in fsspec, and the package that has the file system; the extras of rxt-jax are called so too."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/(/?)")


def as_path(place: str | os.PathLike[str]) -> Path:
    """Give the path of a local place or of an object store (`gs://BUCKET/…`, `s3://BUCKET/…`).

    Both are used alike; that of an object store is an `epath.Path`, which lacks what an object store cannot do.
    Raises a `ValueError` for other addresses, and where the package is missing that reaches the store.
    """
    if not is_remote(place):
        return Path(place)
    from etils import epath

    _check_reachable(os.fspath(place).partition(":")[0])
    return cast(Path, epath.Path(os.fspath(place)))


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Tell an object store from a local place. Raises a `ValueError` for other addresses."""
    found = _ADDRESS.match(os.fspath(place))
    if found is None:
        return False
    scheme, second = found.groups()
    if not second:
        if scheme not in _FILE_SYSTEMS or isinstance(place, str):
            return False
        # pathlib makes one slash of two, and a local folder called `gs:` is nothing that anybody wants.
        raise ValueError(f"{place} went through pathlib.Path, which spoils addresses; hand over a string, {scheme}://…")
    if scheme not in _FILE_SYSTEMS:
        known = ", ".join(f"{each}://" for each in _FILE_SYSTEMS)
        raise ValueError(f"{place} is no place for files; expected a local path, {known}")
    return True


@functools.cache
def _check_reachable(scheme: str) -> None:
    # Where TensorFlow is installed epath reaches both stores through it.
    if importlib.util.find_spec("tensorflow") is not None:
        return
    protocol, package = _FILE_SYSTEMS[scheme]
    try:
        fsspec: Any = importlib.import_module("fsspec")
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ValueError(f"{scheme}:// needs {package} ({error}): pip install 'rxt-jax[{protocol}]'") from error
    # Several hosts write into one folder: a listing that was right a while ago hides what another host wrote since.
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def absolute(place: str | os.PathLike[str]) -> Path:
    """Give the path that means the same in every working directory."""
    return as_path(place) if is_remote(place) else Path(place).absolute()


def local_only(place: str | os.PathLike[str], why: str, remedy: str = "Copy it to a local disk and name that") -> Path:
    """Give the path of a local place. Raises a `ValueError` for one on an object store: why that does not do, and the
    remedy."""
    if is_remote(place):
        raise ValueError(f"{place} is on an object store, but {why}. {remedy}.")
    return Path(place)


def check_place_for_file(place: str | os.PathLike[str]) -> None:
    """Refuse a place where no file can be written, before the work is done that fills it."""
    if is_remote(place):
        return
    file = Path(place)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name the file to write, such as {file / 'page.html'}")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} does not exist or is no folder; {file.name} cannot be written there")


def files_below(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is a file."""
    if not is_remote(folder):
        yield from (each for each in folder.rglob("*") if each.is_file())
        return
    # Not `walk` of epath 1.15: it asks s3fs what that does not know, and leaves the scheme out.
    for each in folder.iterdir():
        if each == folder:  # an object that stands for its folder
            continue
        if each.is_dir():
            yield from files_below(each)
        else:
            yield each


def files_matching(pattern: str) -> list[Path]:
    """List what a glob matches, in no order. Raises a `ValueError` for `**` on an object store."""
    if not is_remote(pattern):
        return [Path(each) for each in glob.glob(pattern, recursive=True)]
    if "**" in pattern:
        raise ValueError(f"{pattern}: object stores are not searched for **; name the folder, or write * per level")
    parts = pattern.split("/")
    first = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return list(as_path("/".join(parts[:first])).glob("/".join(parts[first:])))


def file_size(file: Path) -> int:
    """Return the bytes of a file."""
    found: Any = file.stat()
    return found.length if is_remote(file) else found.st_size


def read_json(file: Path) -> Any:
    """Read a file of one JSON value. Where it is none, or was cut short, a `ValueError` names the file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{file} is no JSON: {error}") from None


def replace_file(file: Path, content: str) -> None:
    """Write a text file. Whoever reads it meanwhile, or after a machine went down, finds the old one or the new one."""
    if is_remote(file):
        file.write_bytes(content.encode())
        return
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(beside, file)


@contextlib.contextmanager
def local_copy(file: Path) -> Iterator[Path]:
    """Give a file for a library that opens files by name: itself, or a copy for as long as the block lasts."""
    if not is_remote(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="rxt_") as folder:
        copy = Path(folder) / file.name
        _copy(file, copy)
        yield copy


class LineFile:
    """A text file that grows line by line.

    A local one has every line at once. An object store gets the whole file at every `flush`, and at `close`.
    """

    def __init__(self, file: Path):
        self._file = file
        self._opened = None if is_remote(file) else file.open("a", encoding="utf-8")
        self._content = file.read_bytes() if self._opened is None and file.is_file() else b""
        self._is_new = False

    def write(self, line: str) -> None:
        """Append a line."""
        if self._opened is None:
            self._content += line.encode() + b"\n"
            self._is_new = True
        else:
            self._opened.write(line + "\n")
            self._opened.flush()

    def flush(self) -> None:
        """See to it that every line is where it belongs."""
        if self._is_new:
            self._file.write_bytes(self._content)
            self._is_new = False

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._opened is not None:
            self._opened.close()


class Outbox:
    """A local `folder` for libraries that write files by name: the place itself where that is local, else one whose
    files are copied there."""

    def __init__(self, place: Path):
        self._place = place
        self._temporary = tempfile.TemporaryDirectory(prefix="rxt_") if is_remote(place) else None
        self.folder = place if self._temporary is None else Path(self._temporary.name)
        self._sent: dict[Path, tuple[int, int]] = {}

    def send(self) -> None:
        """Copy the files that changed since the last time, each as a whole."""
        if self._temporary is None:
            return
        for file in sorted(files_below(self.folder)):
            facts = file.stat()
            state = (facts.st_size, facts.st_mtime_ns)
            if self._sent.get(file) != state:
                _copy(file, self._place / file.relative_to(self.folder).as_posix())
                self._sent[file] = state

    def close(self) -> None:
        """Send what is left and remove the folder, if it is a temporary one."""
        if self._temporary is not None:
            self.send()
            self._temporary.cleanup()


def _copy(source: Path, destination: Path) -> None:
    with source.open("rb") as read, destination.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
