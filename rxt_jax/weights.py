"""Parameters as one safetensors file: path → array, in the dtype that the file is to have.

What a checkpoint also holds (optimizer, place in the data) is left out: such a file is for using a model.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from rxt_jax.paths import as_path, local_copy
from rxt_jax.types import Array

__all__ = ["WEIGHTS_FILE", "Tensor", "WeightDtype", "Weights", "read_weights", "write_tensors", "write_weights"]

WEIGHTS_FILE = "model.safetensors"

WeightDtype = Literal["bfloat16", "float32"]
"""bfloat16 halves the file: every number keeps its range and 8 of its 24 bits."""

_NAMES = {"bfloat16": "BF16", "float32": "F32"}


class Tensor(NamedTuple):
    """A tensor that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Weights(NamedTuple):
    """Parameters by path, and what the file says about itself."""

    params: dict[str, Array]
    meta: dict[str, str]


def write_weights(
    file: str | Path, params: Mapping[str, Any], meta: Mapping[str, str], dtype: WeightDtype = "bfloat16"
) -> None:
    """Write parameters by path, all of them rounded to `dtype`; `meta` goes into the header."""
    tensors = [Tensor(path, value.shape, lambda value=value: np.asarray(value)) for path, value in params.items()]
    write_tensors(file, tensors, {"format": "rxt_jax", **meta}, dtype)


def write_tensors(file: str | Path, tensors: Iterable[Tensor], meta: Mapping[str, str], dtype: WeightDtype) -> None:
    """Write tensors one by one, in the order of their names: the same tensors always make the same file.

    The library wants all of them in memory, twice. The format is eight bytes with the length of a JSON header, the
    header, and the values in its order.
    """
    kind = jnp.dtype(dtype)
    header: dict[str, Any] = {"__metadata__": dict(meta)}
    tensors, end = sorted(tensors, key=lambda tensor: tensor.name), 0
    for tensor in tensors:
        start, end = end, end + kind.itemsize * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": _NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight
    with as_path(file).open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            # bfloat16 has no buffer of its own
            opened.write(np.ascontiguousarray(tensor.read(), kind).reshape(-1).view(np.uint8).data)


def read_weights(file: str | Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Weights:
    """Read the parameters `wanted`, in their dtypes and on their devices.

    Raises a `ValueError` that lists the paths which the file lacks, has in another shape, or has too many of: then
    it belongs to another model.
    """
    try:
        with local_copy(as_path(file)) as copy, safe_open(copy, framework="flax") as opened:
            meta = opened.metadata() or {}
            shapes = {path: tuple(opened.get_slice(path).get_shape()) for path in opened.keys()}  # noqa: SIM118
            faults = list(_faults(shapes, wanted))
            if faults:
                raise ValueError(f"{file} belongs to another model than the recipe beside it: {'; '.join(faults)}")
            stored = {path: opened.get_tensor(path) for path in wanted}
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); copy it again, or export the run again") from error
    return Weights({path: _placed(value, wanted[path]) for path, value in stored.items()}, meta)


def _faults(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Iterator[str]:
    missing, unknown = sorted(set(wanted) - set(shapes)), sorted(set(shapes) - set(wanted))
    if missing:
        yield f"it lacks {', '.join(missing)}"
    if unknown:
        yield f"it also has {', '.join(unknown)}"
    for path in sorted(set(wanted) & set(shapes)):
        if shapes[path] != tuple(wanted[path].shape):
            yield f"{path} has the shape {list(shapes[path])} instead of {list(wanted[path].shape)}"


def _placed(value: Array, wanted: jax.ShapeDtypeStruct) -> Array:
    # On the host: the device would compile a program per shape.
    return jax.device_put(np.asarray(value).astype(wanted.dtype), wanted.sharding)
