"""The letters of every shape, and the batches that travel between the layers.

B batch · T tokens · S memory slots, or keys of an attention · L memory layers · I interactions · D model width
N query heads · K key/value heads · G query heads per key/value head · H head width · F feed-forward width
E experts · V vocabulary
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

__all__ = [
    "Array",
    "Bool",
    "EpisodeBatch",
    "Float",
    "Int",
    "Interaction",
    "Key",
    "Metrics",
    "PreferenceBatch",
    "RowBatch",
    "ShapedArray",
]

Key = PRNGKeyArray
"""A typed JAX PRNG key. `None` where a key is optional means: deterministic."""

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name → (sum, count), float32 scalars. Only the host divides, so means over batches and devices are exact."""

ShapedArray = Any
"""A NumPy array on the host or a JAX array on the device: batches are the same tuple on both sides."""


class RowBatch(NamedTuple):
    """Independent token rows, stages 1 and 2.

    `loss_mask[b, t]` is True where token t is itself a target, predicted from position t − 1.
    `mlm_mask[b, t]` is True where the encoder sees `[MASK]` and has to restore the token; `masked_ids` are the ids as
    it sees them, written by who knows the tokenizer. None: no encoder reads these rows.
    `documents[b, t]` counts the documents of a packed row from 1, 0 is padding: they do not see each other, and
    each starts at position 0. None: one document per row.
    """

    ids: ShapedArray  # int32 [B T]
    token_mask: ShapedArray  # bool [B T], True = real token
    loss_mask: ShapedArray  # bool [B T]
    mlm_mask: ShapedArray  # bool [B T]
    documents: ShapedArray | None = None  # int32 [B T]
    masked_ids: ShapedArray | None = None  # int32 [B T]


class EpisodeBatch(NamedTuple):
    """Conversations, interaction by interaction; one row = query part + answer part, padded on the right.

    `valid[i, b]` is False for the filler interactions of shorter episodes: they change no loss, metric or memory.
    """

    ids: ShapedArray  # int32 [I B T]
    token_mask: ShapedArray  # bool [I B T]
    loss_mask: ShapedArray  # bool [I B T]
    valid: ShapedArray  # bool [I B]
    loss_weights: ShapedArray | None = None  # float32 [I B T], how much a target counts; None: all the same


class PreferenceBatch(NamedTuple):
    """Conversations with two or three answers to every query, in rows of the same shape.

    A row is query part + answer part. `chosen.valid` says whether there is an interaction at all, the others'
    `valid` whether it has such an answer. Only chosen rows enter memory. `reference` are the summed
    log-probabilities of the three answers under a reference model, where they were computed beforehand.
    """

    chosen: EpisodeBatch
    rejected: EpisodeBatch
    neutral: EpisodeBatch
    reference: ShapedArray | None = None  # float32 [I B 3]

    @property
    def token_mask(self) -> ShapedArray:
        """The tokens of chosen answers and their queries: what a conversation of this batch holds."""
        return self.chosen.token_mask


class Interaction(NamedTuple):
    """One interaction with the one before it, so that memory alone has to be carried.

    Inside the scan leaves are `[B T]` / `[B]`; before it they carry a leading I.
    `previous_valid` is False until an episode's first real interaction has been.
    """

    ids: ShapedArray
    token_mask: ShapedArray
    loss_mask: ShapedArray
    valid: ShapedArray
    previous_ids: ShapedArray
    previous_token_mask: ShapedArray
    previous_valid: ShapedArray
    loss_weights: ShapedArray | None = None
