"""Stage 3: what a memory update should look like before anybody reads it.

    target = w_acc · M + w_new · ED        loss = −mean over layers, rows and slots of cos(updated
    M, target)

Source: docs/method.md §15.4.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "TargetPadding",
    "cosine_by_row",
    "fit_to_slots",
    "memory_targets",
    "new_weight",
    "shifted_weights",
]

TargetPadding = Literal["keep", "accumulated", "ignore"]
"""What a slot whose encoder state is padding should hold: that state, the old memory, or
anything."""


def new_weight(
    interaction: Int[Array, "..."],
    *,
    first: float = 0.9,
    follow_up: float = 0.5,
    decay: float = 0.05,
    lowest: float = 0.05,
) -> Float[Array, "..."]:
    """Give the share of the new encoding: `first` at interaction 0, then `follow_up` falling by
    `decay`.

    Source: docs/method.md, eq. 68.
    """
    later = follow_up - (interaction.astype(jnp.float32) - 1.0) * decay
    return jnp.where(interaction == 0, first, jnp.maximum(lowest, later))


def shifted_weights(
    new: Float[Array, "..."],
    shift: Float[Array, "..."],
    towards_memory: Bool[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Move `shift` between the weights (accumulated, new), both kept in [0, 1].

    The published schedule is not clamped and may pass 1. Source: docs/method.md, eq. 69.
    """
    new = jnp.where(towards_memory, new - shift, new + shift)
    new = jnp.clip(new, 0.0, 1.0)
    return 1.0 - new, new


def memory_targets(
    memory: Float[Array, "L B S D"],
    encoded: Float[Array, "L B S D"],
    accumulated_weight: Float[Array, ""],
    new_weight: Float[Array, ""],
) -> Float[Array, "L B S D"]:
    """Mix memory and new encodings into the label of stage 3.

    Encodings are the clean ones even where the network saw noise. Source: docs/method.md, eq. 70.
    """
    return accumulated_weight * memory + new_weight * encoded


def fit_to_slots(
    encoded: Float[Array, "L B T D"], token_mask: Bool[Array, "B T"], num_slots: int
) -> tuple[Float[Array, "L B S D"], Bool[Array, "B S"]]:
    """Bring T encoder states to S slots; the mask says which slots hold a real token.

    More tokens than slots: every slot is the average of its share of neighbouring tokens. Fewer:
    the tokens repeat from the start. Equal: nothing happens. Source: docs/method.md, eq. 73.
    """
    length = encoded.shape[2]
    if length == num_slots:
        return encoded, token_mask
    if length < num_slots:
        source = jnp.arange(num_slots) % length
        return encoded[:, :, source], token_mask[:, source]
    # Slot s covers the tokens [floor(s·T/S), ceil((s+1)·T/S)), as adaptive pooling does.
    slots = jnp.arange(num_slots)[:, None]
    tokens = jnp.arange(length)[None, :]
    covers = (tokens >= slots * length // num_slots) & (tokens < -(-(slots + 1) * length // num_slots))
    share = covers / jnp.sum(covers, axis=1, keepdims=True)
    pooled = jnp.einsum("LBTD,ST->LBSD", encoded, share.astype(encoded.dtype))
    return pooled, jnp.any(covers[None] & token_mask[:, None, :], axis=-1)


def cosine_by_row(
    updated: Float[Array, "L B S D"],
    target: Float[Array, "L B S D"],
    slot_mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B"]:
    """Average cos(updated, target) over layers and slots, one number per row, in float32.

    The product of the norms is clamped at 1e-8. A row whose `slot_mask` is empty gives 0.
    Source: docs/method.md, eq. 72.
    """
    updated, target = updated.astype(jnp.float32), target.astype(jnp.float32)
    product = jnp.sum(updated * target, axis=-1)
    # The norms are clamped inside the root, where a zero vector would have an infinite slope.
    squares = jnp.sum(updated**2, axis=-1) * jnp.sum(target**2, axis=-1)
    cosine = product / jnp.sqrt(jnp.maximum(squares, 1e-16))
    if slot_mask is None:
        return jnp.mean(cosine, axis=(0, 2))
    kept = jnp.sum(jnp.where(slot_mask, cosine, 0.0), axis=(0, 2))
    return kept / (cosine.shape[0] * jnp.maximum(jnp.sum(slot_mask, axis=-1), 1))
