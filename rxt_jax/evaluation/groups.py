"""Some rows of an interaction, taken together: few of them ask something, and the decoder is given whole batches.

Rows lie in `parts` blocks of equal size, one per device that shares the work. A group takes the same number of rows
from every block, so that no row has to travel. Letters: P parts · m rows of a part · N groups · g rows of a part in a
group · C memory conditions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rxt_jax.types import Array

__all__ = ["asked_rows", "group_rows", "read_groups", "take_memories", "take_rows", "ungroup"]


def group_rows(asked: np.ndarray, parts: int, size: int) -> np.ndarray:
    """Number the rows that are asked something, `[I P·m]` True or False, in groups `[I N P g]` with g = `size`.

    An entry is the place of a row within its part, −1 where there is none. N is enough for all rows to be asked.
    """
    interactions, rows = asked.shape
    rows //= parts
    count = -(-rows // size)
    groups = np.full((interactions, parts, count * size), -1, np.int32)
    for interaction, part in np.ndindex(interactions, parts):
        places = np.flatnonzero(asked[interaction, part * rows : (part + 1) * rows])
        groups[interaction, part, : len(places)] = places
    return np.moveaxis(groups.reshape(interactions, parts, count, size), 1, 2)


def read_groups(read: Callable[[Array], PyTree], groups: Array) -> PyTree:
    """Call `read` with every group `[P g]` of one interaction's groups `[N P g]`; results get a leading N.

    Groups without a row are skipped and give zeros.
    """
    shapes = jax.eval_shape(read, groups[0])

    def skip(group: Array) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def one(carry: None, group: Array) -> tuple[None, PyTree]:
        return carry, jax.lax.cond(jnp.any(group >= 0), read, skip, group)

    return jax.lax.scan(one, None, groups)[1]


def asked_rows(group: Array, conditions: int) -> Array:
    """Tell which rows of `take_rows` ask something, `[P·C·g]`; the others fill a group `[P g]` up."""
    return jnp.repeat((group >= 0)[:, None], conditions, axis=1).reshape(-1)


def take_rows(rows: PyTree, group: Array, conditions: int) -> PyTree:
    """Take a group `[P g]` of rows `[P·m ...]`, once for every condition: `[P·C·g ...]`. For −1 any row will do."""
    parts, size = group.shape

    def take(leaf: Array) -> Array:
        blocks = leaf.reshape(parts, -1, *leaf.shape[1:])
        taken = jax.vmap(lambda block, places: block[places])(blocks, jnp.maximum(group, 0))
        taken = jnp.broadcast_to(taken[:, None], (parts, conditions, *taken.shape[1:]))
        return taken.reshape(parts * conditions * size, *leaf.shape[1:])

    return jax.tree.map(take, rows)


def take_memories(memories: Array, group: Array) -> Array:
    """Take a group `[P g]` of memories `[C L P·m S D]`; the rows of the result are those of `take_rows`."""
    parts, size = group.shape
    conditions, layers, _, slots, width = memories.shape
    blocks = memories.reshape(conditions, layers, parts, -1, slots, width)
    taken = jax.vmap(lambda block, places: block[:, :, places], (2, 0))(blocks, jnp.maximum(group, 0))
    return jnp.moveaxis(taken, 2, 0).reshape(layers, parts * conditions * size, slots, width)


def ungroup(found: np.ndarray, groups: np.ndarray, conditions: int, rows: int) -> np.ndarray:
    """Put what groups `[I N P g]` gave, `[I N P·C·g ...]`, back to its rows: `[C I P·m ...]`, zeros for the others."""
    parts, size = groups.shape[2:]
    found = found.reshape(*groups.shape[:3], conditions, size, *found.shape[3:])
    interaction, number, part, place = np.nonzero(groups >= 0)
    row = part * (rows // parts) + groups[interaction, number, part, place]
    result = np.zeros((conditions, len(groups), rows, *found.shape[5:]), found.dtype)
    result[:, interaction, row] = np.moveaxis(found[interaction, number, part, :, place], 0, 1)
    return result
