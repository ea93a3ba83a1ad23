"""A bucket without a network: objects of `gs://` in a local folder, with what an object store cannot do refused."""

import io
import os
from pathlib import Path

import fsspec
import pytest
from orbax.checkpoint._src.path import gcs_utils


class _Upload(io.BytesIO):
    """An object that is there, as a whole, when it is closed."""

    def __init__(self, file: Path):
        super().__init__()
        self._file = file

    def close(self):
        if not self.closed:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            beside.write_bytes(self.getvalue())
            beside.replace(self._file)
            FolderStore.uploads.append(self._file.name)
        super().close()


class FolderStore(fsspec.AbstractFileSystem):
    """The file system that fsspec knows as `gcs`. A folder is there as long as an object is below it."""

    protocol = ("gcs", "gs")
    root = Path("/nowhere")
    uploads: list[str] = []  # noqa: RUF012  (one store for the process)

    def _open(self, path, mode="rb", **_):
        file = self.root / path
        if mode == "rb" and file.is_file():
            return file.open("rb")
        if mode == "rb":
            raise FileNotFoundError(path)
        if mode != "wb":
            raise OSError(f"{path}: an object cannot be opened with mode {mode}")
        return _Upload(file)

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path).rstrip("/")
        file = self.root / path
        if file.is_file():
            found = [file]
        else:
            found = [each for each in file.glob("*") if each.is_file() or any(e.is_file() for e in each.rglob("*"))]
            if not found and "/" in path:
                raise FileNotFoundError(path)
        infos = [
            {
                "name": each.relative_to(self.root).as_posix(),
                "size": each.stat().st_size,
                "type": "file" if each.is_file() else "directory",
            }
            for each in found
        ]
        return infos if detail else [info["name"] for info in infos]

    def info(self, path, **_):
        path = self._strip_protocol(path).rstrip("/")
        if (self.root / path).is_file():
            return self.ls(path)[0]
        self.ls(path)
        return {"name": path, "size": 0, "type": "directory"}

    def rm_file(self, path):
        file = self.root / self._strip_protocol(path)
        if file.is_file():
            file.unlink()

    def cp_file(self, path1, path2, **_):
        raise OSError(f"{path1}: nothing of ours copies or renames objects")

    mv = cp_file


def use_bucket(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `gs://bucket` be `folder/bucket`, for epath and for the arrays that TensorStore writes."""
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    fsspec.register_implementation("gcs", FolderStore, clobber=True)
    patch.setattr(FolderStore, "root", folder)
    patch.setattr(FolderStore, "uploads", [])

    def in_folder(place: str) -> dict[str, str]:
        bucket, key = gcs_utils.parse_gcs_path(place, add_trailing_slash=False)
        return {"driver": "file", "path": f"{folder}/{bucket}/{key}"}

    patch.setattr(gcs_utils, "get_kvstore_for_gcs", in_folder)
    patch.setattr(gcs_utils, "get_bucket", lambda name: object())  # no hierarchical namespace
