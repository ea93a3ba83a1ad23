"""What a memory holds and what an interaction did to it, in numbers per slot."""

from typing import NamedTuple

import numpy as np

from rxt_jax.types import Array

__all__ = ["MemoryChange", "measure_change"]


class MemoryChange(NamedTuple):
    """Root mean squares over the width, `[L S]`, and how alike the slots of a layer are, `[L]`.

    `level` is the size of memory, `change` that of its last change, `distance` how far it is from the memory of a new
    conversation. `likeness` is the mean cosine between two slots: 1 where all hold the same, about 0 where each holds
    something of its own.
    """

    level: np.ndarray
    change: np.ndarray
    distance: np.ndarray
    likeness: np.ndarray


def measure_change(memory: Array, before: Array, empty: Array) -> MemoryChange:
    """Compare the memory `[L 1 S D]` of a conversation with the one before and with that of a new conversation."""
    now, earlier, new = (np.asarray(each, np.float32)[:, 0] for each in (memory, before, empty))

    def size(array: np.ndarray) -> np.ndarray:
        return np.sqrt(np.mean(array**2, axis=-1))

    directions = now / np.maximum(np.linalg.norm(now, axis=-1, keepdims=True), 1e-9)
    slots = now.shape[1]
    # The sum over all pairs is the squared length of the sum; each slot's own pair with itself is 1.
    pairs = np.sum(np.sum(directions, axis=1) ** 2, axis=-1) - slots
    return MemoryChange(size(now), size(now - earlier), size(now - new), pairs / max(slots * (slots - 1), 1))
