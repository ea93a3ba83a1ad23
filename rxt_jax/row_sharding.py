"""Activations on a mesh: their rows are split over devices, and some functions run on a device's own rows alone.

    with on_mesh(mesh):                       # while a program is traced
        x = constrain(x, ("batch", None, None))
        y, total = map_rows(function, rows, parameters)

A model calls these and knows nothing of a mesh: the mesh is the context in which a program is traced. Without one, as
on a single device, nothing is constrained and functions get all rows.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from rxt_jax.sharding import AXIS_RULES, BATCH_AXES, parameter_spec

__all__ = ["constrain", "map_rows", "on_mesh", "rows_are_own"]

# Other axes of activations, such as width and slots, are whole on every device.
_SPLIT = {"batch": BATCH_AXES} | {
    axis: (AXIS_RULES[axis],) for axis in ("vocab", "query_heads", "kv_heads", "mlp") if AXIS_RULES[axis]
}


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Trace what is inside for the devices of a mesh. None, or a mesh of one device, changes nothing."""
    if mesh is None or mesh.size == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Say how an activation is split: one name per dimension, `batch` or an axis of `AXIS_RULES`, None = whole.

    The partitioner would find a layout by itself, but for parameters that are split over `fsdp` it finds one in which
    every device has the whole batch. Rows that the mesh does not divide are left to it.
    """
    if len(axes) != x.ndim:
        raise ValueError(f"axes must name every dimension of {x.shape} or say None for it, got {tuple(axes)}.")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = []
    for size, axis in zip(x.shape, axes, strict=True):
        # Inside `map_rows` rows are a device's own: there is nothing left to split.
        targets = tuple(each for each in _SPLIT.get(axis or "", ()) if each in mesh.auto_axes and mesh.shape[each] > 1)
        if size % math.prod(mesh.shape[each] for each in targets):
            if axis == "batch":
                return x
            targets = ()
        spec.append(targets or None)
    return jax.lax.with_sharding_constraint(x, P(*spec)) if any(spec) else x


def map_rows(
    function: Callable[[Any, Any, tuple[str, ...]], tuple[Any, Any]],
    rows: Any,
    parameters: Any = (),
    *,
    row_axis: int = 0,
    multiple: int = 1,
    data_alone: bool = False,
) -> tuple[Any, Any]:
    """Call `function(rows, parameters, over) -> (by_row, common)` on every device with its own rows.

    `row_axis` of all leaves of `rows` and `by_row` counts rows, of which a device gets a multiple of `multiple`.
    `parameters` is any pytree of variables or arrays and arrives whole. `over` names the axes of the mesh over which
    the function may add up (`jax.lax.psum`), as it has to for `common`, which must be the same on all devices; it is
    empty where one device has all rows.

    Parameters that are split are gathered inside, so that their gradients come back split; all others are added up over
    the devices once, behind everything that the function does. `data_alone` is for large functions, whose parameters
    nobody wants to have gathered all at once: on a mesh that splits anything but rows the function gets all rows.

    Inside of such a function another call finds the rows already split: its function is called as it is, with the same
    names to add up over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and all(axis in mesh.manual_axes for axis in BATCH_AXES):
        return function(rows, parameters, tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1))
    count = jax.tree.leaves(rows)[0].shape[row_axis]
    over = () if mesh.empty else tuple(axis for axis in BATCH_AXES if axis in mesh.auto_axes)
    parts = math.prod(mesh.shape[axis] for axis in over)
    if parts == 1 or count % (parts * multiple) or (data_alone and mesh.size != mesh.shape["data"]):
        return function(rows, parameters, ())
    variables = jax.tree.leaves(parameters, is_leaf=_is_variable)
    specs = [_own_spec(each, mesh, over) for each in variables]
    flat, structure = jax.tree.flatten(parameters)

    def local(rows: Any, flat: list[jax.Array]) -> tuple[Any, Any]:
        gathered = [_gather(leaf, spec) for leaf, spec in zip(flat, specs, strict=True)]
        return function(rows, jax.tree.unflatten(structure, gathered), over)

    # Manual over the other axes too where they split nothing: a program that is manual throughout is the simple case.
    alone = all(mesh.shape[axis] == 1 for axis in mesh.axis_names if axis not in over)
    split = P(*[None] * row_axis, over)
    mapped = jax.shard_map(
        local,
        in_specs=(split, specs),
        out_specs=(split, P()),
        axis_names=set(mesh.axis_names if alone else over),
        check_vma=False,
    )
    return mapped(rows, flat)


def rows_are_own(count: int) -> bool:
    """Say whether inside `map_rows` a device works alone: on its own of `count` rows, with all heads and channels.

    That is what a Pallas kernel needs, which the partitioner cannot split. True without a mesh on a single device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.auto_axes)
    return count % parts == 0 and all(
        mesh.shape[axis] == 1 or axis in mesh.manual_axes or axis in BATCH_AXES for axis in mesh.axis_names
    )


def _is_variable(node: Any) -> bool:
    return hasattr(node, "get_metadata")


def _own_spec(variable: Any, mesh: AbstractMesh, over: Iterable[str]) -> P:
    """Return where a parameter lives, as far as the axes go that rows are split over."""
    if not _is_variable(variable):
        return P()
    return P(*(axis if axis in over else None for axis in parameter_spec(variable, mesh)))


def _gather(leaf: jax.Array, spec: P) -> jax.Array:
    for place, axis in enumerate(spec):
        if axis is not None:
            leaf = jax.lax.all_gather(leaf, axis, axis=place, tiled=True)
    return leaf
