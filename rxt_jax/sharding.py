"""Where arrays live: one table from the names of parameter axes to the axes of the device mesh.

A model knows nothing of a mesh: shapes and names of axes say where its parameters are to live before there are any, so
that one code path serves one device and many. The partitioner (GSPMD) does the rest.

A dimension that a mesh axis does not divide is an error, unless the config of the mesh names it as one that may stay
whole: then it is listed when a run starts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = [
    "AXIS_RULES",
    "BATCH_AXES",
    "Indivisible",
    "MeshConfig",
    "batch_parts",
    "batch_shardings",
    "describe_indivisible",
    "find_indivisible",
    "make_mesh",
    "parameter_shardings",
    "parameter_spec",
    "place_batch",
    "process_rows",
    "state_shardings",
]

MESH_AXES = ("data", "fsdp", "tensor", "expert")

BATCH_AXES = ("data", "fsdp", "expert")
"""Mesh axes that split the rows of a batch; with `tensor` devices share what a row needs."""

AXIS_RULES: dict[str, str | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "query_heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "experts": "expert",
    "shared_experts": None,
    "head_dim": None,
    "parts": None,
    "neighbours": None,
    "positions": None,
    "channels": None,
    "slots": None,
    "slots_out": None,
    "norm": None,
    "one": None,
}
"""Logical axis → mesh axis; None = every device has all of it."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1 takes those that are left, for one axis at most."""

    data: int = -1
    """Parts of the batch; each has all parameters."""
    fsdp: int = 1
    """Parts of the batch and of every parameter's width."""
    tensor: int = 1
    """Parts of heads, feed-forward width and vocabulary."""
    expert: int = 1
    """Parts of the batch and of the experts."""
    replicate_indivisible: tuple[str, ...] = ()
    """Axes of parameters (keys of `AXIS_RULES`) that may be whole on every device where the mesh does not divide them;
    any other one that it does not divide is an error. `("kv_heads",)` is usual where `tensor` exceeds their number."""

    def __post_init__(self) -> None:
        split = [axis for axis, target in AXIS_RULES.items() if target is not None]
        unknown = [axis for axis in self.replicate_indivisible if axis not in split]
        if unknown:
            raise ValueError(
                f"mesh.replicate_indivisible names {', '.join(unknown)}; a mesh splits {', '.join(split)}."
            )
        sizes = [getattr(self, name) for name in MESH_AXES]
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh axes must be at least 1, one of them may be -1 (the rest); got {self}.")


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Arrange devices as the config says; a shape that does not fit them is an error.

    Neighbours in a mesh are neighbours in the network (`jax.make_mesh`). Slices of accelerators that are joined by a
    slower network are parts of `data`, which talks least.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, name) for name in MESH_AXES]
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(len(devices) // known, 1)
    if int(np.prod(sizes)) != len(devices):
        shape = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
        raise ValueError(
            f"mesh ({shape}) needs {int(np.prod(sizes))} devices, but there are {len(devices)}. "
            f"Choose sizes whose product is {len(devices)}, or -1 for one of them."
        )
    types = (AxisType.Auto,) * len(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=types, devices=devices)
    if sizes[0] % slices:
        raise ValueError(
            f"mesh.data = {sizes[0]} must be a multiple of the {slices} slices that the devices belong to, because the "
            f"network between slices is for data alone. Raise data, or use the devices of one slice."
        )
    inside, between = [sizes[0] // slices, *sizes[1:]], [slices, 1, 1, 1]
    return Mesh(create_hybrid_device_mesh(inside, between, devices), MESH_AXES, axis_types=types)


class Indivisible(NamedTuple):
    """A dimension of a parameter that its mesh axis does not divide."""

    path: str
    axis: str
    size: int
    mesh_axis: str
    parts: int


def find_indivisible(parameters: Mapping[str, Any], mesh: Mesh) -> list[Indivisible]:
    """List the dimensions that the mesh should split and cannot, of variables by path."""
    return [found for path, variable in parameters.items() for found in _indivisible(path, variable, mesh)]


def describe_indivisible(found: Sequence[Indivisible]) -> str:
    """Say what does not divide, one line per axis and size, with the parameters that have it."""
    paths: dict[tuple, list[str]] = {}
    for each in found:
        paths.setdefault(each[1:], []).append(each.path)
    return "\n".join(
        f"  {axis} = {size} does not divide by {mesh_axis} = {parts}: {', '.join(names)}"
        for (axis, size, mesh_axis, parts), names in paths.items()
    )


def parameter_shardings(
    parameters: Mapping[str, Any], mesh: Mesh, replicate_indivisible: Sequence[str] = ()
) -> dict[str, NamedSharding]:
    """Place parameters (variables by path) by the names of their axes.

    A mesh axis splits one dimension of a parameter, the first that it is meant for and divides. Raises a `ValueError`
    that lists the dimensions which do not divide, but for the axes in `replicate_indivisible`: those stay whole.
    """
    refused = [each for each in find_indivisible(parameters, mesh) if each.axis not in replicate_indivisible]
    if refused:
        axes = tuple(dict.fromkeys((*replicate_indivisible, *(each.axis for each in refused))))
        raise ValueError(
            f"the mesh cannot split these parameters:\n{describe_indivisible(refused)}\n"
            f"Choose other mesh sizes or another model, or keep them whole on every device by "
            f"mesh.replicate_indivisible = {axes}."
        )
    return {path: NamedSharding(mesh, parameter_spec(variable, mesh)) for path, variable in parameters.items()}


def parameter_spec(variable: Any, mesh: Mesh | AbstractMesh) -> P:
    """Say which mesh axis splits each dimension of a parameter; what does not divide stays whole."""
    spec: list[str | None] = [None] * len(variable.shape)
    for place, _, size, target in _meant(variable):
        if target not in spec and size % mesh.shape[target] == 0:
            spec[place] = target
    return P(*spec)


def _indivisible(path: str, variable: Any, mesh: Mesh) -> Iterator[Indivisible]:
    spec = parameter_spec(variable, mesh)
    for _, axis, size, target in _meant(variable):
        if target not in spec:  # it would be, had it divided this dimension or another one
            yield Indivisible(path, axis, size, target, mesh.shape[target])


def _meant(variable: Any) -> Iterator[tuple[int, str, int, str]]:
    """Yield the dimensions that the table splits: place, axis, size, mesh axis. Stacked layers come before all axes."""
    axes = variable.get_metadata().get("axes") or ()
    unknown = [axis for axis in axes if axis not in AXIS_RULES]
    if unknown:
        raise ValueError(f"no rule for the parameter axes {unknown}; add them to AXIS_RULES.")
    for place, axis in enumerate(axes, len(variable.shape) - len(axes)):
        target = AXIS_RULES[axis]
        if target is not None:
            yield place, axis, variable.shape[place], target


def state_shardings(
    state: Any, parameters: Mapping[str, Any], mesh: Mesh, replicate_indivisible: Sequence[str] = ()
) -> Any:
    """Place a whole train state: whatever is named and shaped like a parameter lives where it lives.

    `parameters` maps paths to variables. Moments are found by the path among their keys. Neither has to be allocated:
    shapes are enough. What cannot be split is an error as in `parameter_shardings`.
    """
    shardings = parameter_shardings(parameters, mesh, replicate_indivisible)
    placed = {path: (variable.shape, shardings[path]) for path, variable in parameters.items()}
    whole = NamedSharding(mesh, P())

    def place(key_path: tuple, leaf: Any) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in key_path if str(key) != ".value"]
        # Moments sit in dicts whose keys are whole paths, parameters in nested ones.
        for start in range(len(names)):
            for path in (names[start], "/".join(names[start:])):
                if path in placed and placed[path][0] == leaf.shape:
                    return placed[path][1]
        return whole

    return jax.tree_util.tree_map_with_path(place, state)


def batch_shardings(batch: Any, mesh: Mesh, batch_axis: int, rows: int | None = None) -> Any:
    """Split the rows of a batch over `BATCH_AXES`.

    `rows` of the whole batch, where `batch` is a process's part of it; None = it is the whole.
    """
    count = jax.tree.leaves(batch)[0].shape[batch_axis] if rows is None else rows
    parts = batch_parts(mesh)
    if count % parts:
        raise ValueError(
            f"batch_size = {count} must be a multiple of {' × '.join(BATCH_AXES)} = {parts}. "
            f"Change the batch size or the mesh."
        )

    def place(leaf: Any) -> NamedSharding:
        spec: list[Any] = [None] * leaf.ndim
        spec[batch_axis] = BATCH_AXES
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(place, batch)


def batch_parts(mesh: Mesh) -> int:
    """Count the parts that the rows of a batch are split into: devices that have rows of their own."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def process_rows(mesh: Mesh, rows: int) -> tuple[int, ...] | None:
    """List the rows of a batch of `rows` that this process's devices hold, in order; None = all of them.

    Processes may hold the same rows (a mesh whose `tensor` axis crosses them), and rows that are not neighbours.
    """
    if jax.process_count() == 1:
        return None
    places = batch_shardings(np.empty(rows), mesh, 0).addressable_devices_indices_map((rows,))
    held = (index for (index,) in places.values())
    return tuple(sorted({row for index in held for row in range(*index.indices(rows))}))


def place_batch(batch: Any, mesh: Mesh, batch_axis: int, rows: int | None = None) -> Any:
    """Put a batch on the devices.

    With several processes it has the rows of this one (`process_rows`), of `rows` in all, and those of all processes
    make one array.
    """
    shardings = batch_shardings(batch, mesh, batch_axis, rows)
    held = None if rows is None else process_rows(mesh, rows)
    if rows is None or held is None:
        return jax.device_put(batch, shardings)

    def place(leaf: Any, sharding: NamedSharding) -> Any:
        shape = (*leaf.shape[:batch_axis], rows, *leaf.shape[batch_axis + 1 :])

        def part(index: Any) -> Any:
            wanted = range(*index[batch_axis].indices(rows))
            return np.take(leaf, np.searchsorted(held, wanted), axis=batch_axis)

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch, shardings)
