"""What every source of records answers, whether they are generated, read from files, prepared or mixed of others.

A source is asked for *visits* (`rxt_jax.data.order`): `item + size · epoch`. Whoever reads does not ask what kind of
source it is: what only some sources know has an answer here that means "nothing special".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.faults import ReadReport
from rxt_jax.data.rows import Row, RowEncoder

__all__ = ["EpisodeSource", "StoredRows"]


class StoredRows(NamedTuple):
    """Rows that were made before: their lengths in tokens `[rows]`, how many of them stand before the first
    interaction, and what reads them all."""

    lengths: np.ndarray
    first: int
    read: Callable[[], list[Row]]


class EpisodeSource(ABC):
    """Episodes and texts by visit. A source of one's own needs the two methods without a body, and `fingerprint`.

    `size`: how many records it has; None = it has no end.
    `fingerprint`: two sources with one fingerprint hold the same records in the same order.
    `report`: what became of the records of a file; None where nothing was read.
    `parts`: the sources that it is made of.
    `weights`: the shares of the visits that its parts have, each in an order of its own; empty where all records have
    one order.
    `tokenizer_folder`: where the tokenizer lies that it brings along.
    """

    size: int | None = None
    fingerprint: str
    report: ReadReport | None = None
    parts: tuple["EpisodeSource", ...] = ()
    weights: tuple[float, ...] = ()
    tokenizer_folder: Path | None = None

    @abstractmethod
    def episode(self, visit: int) -> dict[str, Any]:
        """Return the checked record of a visit (`docs/data.md`)."""

    @abstractmethod
    def text(self, visit: int) -> str:
        """Return the passage that a visit shows."""

    def stored_episode(self, visit: int) -> StoredRows | None:
        """Return the rows of a visit's episode where they were made before, None where it has to be tokenised."""
        return None

    def stored_text(self, visit: int) -> StoredRows | None:
        """Return the row of a visit's passage where it was made before, None where it has to be tokenised."""
        return None

    def check_rows(self, encoder: RowEncoder, *, sampled: bool) -> None:  # noqa: B027  (nothing is stored)
        """Raise a `ValueError` where stored rows are none that `encoder` would make; `sampled` ones never are."""
