"""Where arrays live: one table from the names of parameter axes to the axes of the device mesh.

A model is built without a mesh and placed afterwards, so that one code path serves one device and many;
the partitioner (GSPMD) does the rest.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = [
    "AXIS_RULES",
    "MeshConfig",
    "batch_shardings",
    "make_mesh",
    "parameter_sharding",
    "place_batch",
    "state_shardings",
]

MESH_AXES = ("data", "fsdp", "tensor", "expert")

AXIS_RULES: dict[str, str | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "query_heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "experts": "expert",
    "head_dim": None,
    "parts": None,
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
    """Splits the batch."""
    fsdp: int = 1
    """Splits the batch, and the parameters by their width."""
    tensor: int = 1
    """Splits heads, feed-forward width and vocabulary."""
    expert: int = 1
    """Splits the experts."""

    def __post_init__(self) -> None:
        sizes = [getattr(self, name) for name in MESH_AXES]
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh axes must be at least 1, one of them may be -1 (the rest); got {self}.")


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Arrange devices as the config says; a shape that does not fit them is an error."""
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
    return Mesh(np.array(devices).reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


def parameter_sharding(variable: Any, mesh: Mesh) -> NamedSharding:
    """Place a parameter by the names of its axes; a dimension that does not divide stays whole."""
    axes = variable.get_metadata().get("axes")
    shape = variable.shape
    if axes is None:
        return NamedSharding(mesh, P())
    unknown = [axis for axis in axes if axis not in AXIS_RULES]
    if unknown:
        raise ValueError(f"no rule for the parameter axes {unknown}; add them to AXIS_RULES.")
    spec: list[str | None] = [None] * (len(shape) - len(axes))
    for axis, size in zip(axes, shape[len(spec) :], strict=True):
        target = AXIS_RULES[axis]
        fits = target is not None and target not in spec and size % mesh.shape[target] == 0
        spec.append(target if fits else None)
    return NamedSharding(mesh, P(*spec))


def state_shardings(state: Any, parameters: dict[str, Any], mesh: Mesh) -> Any:
    """Place a whole train state: whatever is named and shaped like a parameter lives where it lives.

    `parameters` maps paths to variables. Moments are found by the path among their keys.
    """
    placed = {path: (variable.shape, parameter_sharding(variable, mesh)) for path, variable in parameters.items()}
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


def batch_shardings(batch: Any, mesh: Mesh, batch_axis: int) -> Any:
    """Split the rows of a batch over `data` and `fsdp`; each process gives its share of them."""
    rows = jax.tree.leaves(batch)[0].shape[batch_axis] * jax.process_count()
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % parts:
        raise ValueError(
            f"batch_size = {rows} must be a multiple of data × fsdp = {parts}. Change the batch size or the mesh."
        )

    def place(leaf: Any) -> NamedSharding:
        spec: list[Any] = [None] * leaf.ndim
        spec[batch_axis] = ("data", "fsdp")
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(place, batch)


def place_batch(batch: Any, shardings: Any) -> Any:
    """Put a batch on the devices; with several processes each has a share of the rows and they make one array."""
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)
    return jax.tree.map(lambda leaf, place: jax.make_array_from_process_local_data(place, leaf), batch, shardings)
