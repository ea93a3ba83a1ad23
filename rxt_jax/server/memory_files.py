"""A memory as one safetensors file, which says whose it is and whether it is whole.

One float32 tensor `memory` `[L 1 S D]`; the header has the fingerprint of the model, what is known of the memory
besides its values, and the SHA-256 of both.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from rxt_jax.weights import Tensor, write_tensors

__all__ = ["DamagedMemoryError", "ForeignMemoryError", "StoredMemory", "parse_memory", "write_memory"]

_FORMAT = "rxt_jax memory"


class DamagedMemoryError(ValueError):
    """A file that is no memory, or no longer the one that was written."""


class ForeignMemoryError(ValueError):
    """A memory of another model, tokenizer or shape."""


class StoredMemory(NamedTuple):
    """The values `[L 1 S D]` of a memory, float32, and its state, an object of JSON."""

    values: np.ndarray
    state: dict[str, Any]


def write_memory(file: Path, memory: np.ndarray, fingerprint: str, state: Mapping[str, Any]) -> None:
    """Write a memory so that `file` is there whole or not at all, whenever the process or the machine stops."""
    values = np.ascontiguousarray(memory, np.float32)
    text = json.dumps(dict(state))
    meta = {"format": _FORMAT, "fingerprint": fingerprint, "state": text, "sha256": _checksum(values, text)}
    beside = file.with_name(f".{uuid.uuid4().hex}.part")
    try:
        write_tensors(beside, [Tensor("memory", values.shape, lambda: values)], meta, "float32")
        _flush(beside)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    _flush(file.parent)


def parse_memory(content: bytes, *, fingerprint: str, shape: tuple[int, ...], source: str) -> StoredMemory:
    """Read a memory from the content of its file; `source` is how errors call it.

    Raises a `DamagedMemoryError` or a `ForeignMemoryError`, both of them `ValueError`s.
    """
    meta = _header(content).get("__metadata__", {})
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise DamagedMemoryError(f"{source} is no memory file of rxt serve")
    if meta.get("fingerprint") != fingerprint:
        raise ForeignMemoryError(
            f"{source} is the memory of another model (fingerprint {str(meta.get('fingerprint'))[:12]}…, this server's "
            f"is {fingerprint[:12]}…). Load it where that model is served."
        )
    try:
        memory = safetensors.numpy.load(content)["memory"]
    except (SafetensorError, KeyError) as error:
        raise DamagedMemoryError(f"{source} is damaged: {error}") from error
    state = str(meta.get("state"))
    if _checksum(memory, state) != meta.get("sha256"):
        raise DamagedMemoryError(f"{source} is damaged: its values are not those that were written")
    if memory.shape != shape or memory.dtype != np.float32:
        raise ForeignMemoryError(f"{source} has the shape {list(memory.shape)} instead of {list(shape)} in float32")
    return StoredMemory(memory, json.loads(state))


def _header(content: bytes) -> dict[str, Any]:
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _checksum(values: np.ndarray, state: str) -> str:
    digest = hashlib.sha256(state.encode())
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Make the system write a file, or a folder's list of names, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
