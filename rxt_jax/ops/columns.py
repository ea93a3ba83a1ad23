"""Columns of rows, each row its own ones: places in a cache, tokens of an answer.

On a mesh every device works on its own rows. The partitioner would gather all of them, since it does not see that a row
touches nothing but itself.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from rxt_jax.row_sharding import map_rows

__all__ = ["put_columns", "take_columns"]


def put_columns(
    kept: Shaped[Array, "B S *rest"], columns: Int[Array, "B T"], new: Shaped[Array, "B T *rest"]
) -> Shaped[Array, "B S *rest"]:
    """Put `new` into columns of `kept`; columns that it does not have are dropped."""

    def put(rows: tuple[Array, Array, Array], _: Any, __: tuple[str, ...]) -> tuple[Array, tuple[()]]:
        kept, columns, new = rows
        return kept.at[jnp.arange(len(kept))[:, None], columns].set(new.astype(kept.dtype)), ()

    return map_rows(put, (kept, columns, new))[0]


def take_columns(x: Shaped[Array, "B S *rest"], columns: Int[Array, "B T"]) -> Shaped[Array, "B T *rest"]:
    """Take columns of every row, all of which it has to have."""

    def take(rows: tuple[Array, Array], _: Any, __: tuple[str, ...]) -> tuple[Array, tuple[()]]:
        x, columns = rows
        return x[jnp.arange(len(x))[:, None], columns], ()

    return map_rows(take, (x, columns))[0]
