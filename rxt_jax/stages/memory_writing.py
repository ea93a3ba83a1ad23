"""Writing episodes into memory: encode first, then walk memory alone.

    interactions ──▶ encode, several in one call ──▶ encoded [I L B T D]
    memory i−1, encoded i−1 ──▶ update_memory ──▶ memory i

The encoder reads no memory, so nothing but the memory network has to wait for the interaction before. Source:
docs/method.md, eq. 2 and 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.model.calls import call_together, join_rows, split_rows
from rxt_jax.model.episode import fold_key, keep_rows, scan_memories
from rxt_jax.row_sharding import map_rows
from rxt_jax.types import Array, Interaction, Key, Metrics

__all__ = ["WriteReport", "row_cosine", "write_memories", "write_previous", "write_without_scoring"]

BeforeWrite = Callable[[Any, Array, Interaction, Key | None], Array]
"""`(model, memory, interaction, key) -> memory`: what becomes of memory before an interaction is written."""


class WriteReport(NamedTuple):
    """What a write did to the memory of every row, `[B]`: rms of its change, cosine of its slots with what they were
    (mean over layers and slots; 1 where nothing was written). `balance` is the encoder's router loss, 0 if unwanted.
    Of several writes, with a leading I."""

    rms: Array
    cosine: Array
    balance: Array

    def metrics(self, interaction: Interaction) -> Metrics:
        """Average over the rows that were written."""
        written = (interaction.previous_valid & interaction.valid).astype(jnp.float32)
        count = jnp.sum(written, axis=-1)
        return {
            "memory/update_rms": (jnp.sum(self.rms * written, axis=-1), count),
            "memory/cosine": (jnp.sum(self.cosine * written, axis=-1), count),
        }


class _Encoded(NamedTuple):
    """An interaction with the encoder states and the router loss of the one before it, which is to be written."""

    interaction: Interaction
    states: Array
    balance: Array

    @property
    def valid(self) -> Array:
        return self.interaction.valid


def write_memories(
    model: Any,
    memory: Array,
    interactions: Interaction,
    key: Key | None,
    *,
    gradient: bool = True,
    before_write: BeforeWrite | None = None,
    memory_gradient_steps: int | None = None,
    interactions_per_call: int = 1,
    remat: str = "full",
    start: int | Array = 0,
    skips_first: bool = False,
) -> tuple[Array, WriteReport]:
    """Write the predecessors of all interactions, one after the other.

    Returns the memory that every interaction reads, `[I L B S D]`, and what every write did. The encoder reads about
    `interactions_per_call` interactions in one call. `gradient=False` makes a constant of what is written.
    `skips_first` says beforehand that no row has a predecessor of the first interaction. `remat` says what of encoder
    and memory network is kept for the gradient (`nn/remat.py`); of a single interaction everything is. The rest is
    that of `scan_interactions`.
    """
    count = len(interactions.ids)
    remat = remat if gradient and count > 1 else "none"
    skipped = int(skips_first and count > 1)
    later = jax.tree.map(lambda leaf: leaf[skipped:], interactions)
    layout, parameters = nnx.split(model)

    def encode(rows: tuple[Array, Array], common: tuple, over: tuple[str, ...]) -> tuple[Array, Array]:
        parameters, written, key, number = common
        encoder = _previous_encoder(nnx.merge(layout, parameters), key, gradient, number)
        states, balance = call_together(encoder, (*rows, written), written, most=interactions_per_call, remat=remat)
        return jnp.swapaxes(states, 1, 2), balance

    rows = (model.embed(later.previous_ids), later.previous_token_mask)
    common = (parameters, jnp.any(later.previous_valid & later.valid, axis=1), key, jnp.int32(start + skipped))
    if key is not None and model.has_dropout:  # which is drawn for all rows together
        states, balance = encode(rows, common, ())
    else:
        states, balance = map_rows(encode, rows, common, row_axis=1, data_alone=True)
    states = jnp.swapaxes(states, 1, 2)
    states, balance = (jnp.pad(x, [(skipped, 0), *[(0, 0)] * (x.ndim - 1)]) for x in (states, balance))

    def write(model: Any, memory: Array, encoded: _Encoded, key: Key | None) -> tuple[Array, tuple[Array, Any]]:
        if before_write is not None:
            memory = before_write(model, memory, encoded.interaction, key)

        def run(memory: Array) -> tuple[Array, WriteReport]:
            return _write(model, memory, encoded, fold_key(key, 1), gradient)

        return jnp.float32(0.0), jax.lax.cond(_is_needed(encoded.interaction), run, _keep, memory)

    return scan_memories(
        write,
        model,
        memory,
        _Encoded(interactions, states, balance),
        key,
        memory_gradient_steps=memory_gradient_steps,
        remat=remat,
        start=start,
    )


def write_previous(
    model: Any,
    memory: Array,
    interaction: Interaction,
    key: Key | None,
    *,
    gradient: bool = True,
    balanced: bool = False,
) -> tuple[Array, WriteReport]:
    """Write the interaction before this one into memory; also report what that did, `balanced` with the router loss.

    Rows without a predecessor keep their memory. Where no row has one, the encoder does not run at all. For walks that
    need one memory at a time; `write_memories` keeps those of all interactions, and their encoder states.
    """

    def write(memory: Array) -> tuple[Array, WriteReport]:
        previous = (interaction.previous_ids, interaction.previous_token_mask)
        balance = jnp.float32(0.0)
        if balanced:
            encoded, balance = model.encode_balanced(*previous, key=fold_key(key, 0))
            balance = balance.astype(jnp.float32)
        else:
            encoded = model.encode(*previous, key=fold_key(key, 0))
        balance = balance if gradient else jax.lax.stop_gradient(balance)
        return _write(model, memory, _Encoded(interaction, encoded, balance), fold_key(key, 1), gradient)

    return jax.lax.cond(_is_needed(interaction), write, _keep, memory)


def write_without_scoring(
    model: Any, memory: Array, interaction: Interaction, key: Key | None
) -> tuple[Array, tuple[Array, Metrics]]:
    """Be the objective of a walk that only wants memories: write the interaction before this one, score nothing."""
    return jnp.float32(0.0), (write_previous(model, memory, interaction, key)[0], {})


def row_cosine(memory: Array) -> tuple[Array, Array]:
    """Average the cosine between the memories of different rows over layers and slots, as (sum, count).

    Near 1 every conversation has the same memory: the write has collapsed.
    """
    memory = jax.lax.stop_gradient(memory).astype(jnp.float32)
    batch = memory.shape[1]
    norms = jnp.linalg.norm(memory, axis=-1, keepdims=True)
    directions = memory / jnp.maximum(norms, 1e-8)
    # |Σ u|² = B + Σ over the B(B−1) ordered pairs, which spares the B × B products.
    pairs = jnp.sum(jnp.sum(directions, axis=1) ** 2, axis=-1) - batch
    return jnp.mean(pairs) / max(batch * (batch - 1), 1), jnp.float32(batch > 1)


def _previous_encoder(
    model: Any, key: Key | None, gradient: bool, start: int | Array
) -> Callable[[tuple[Array, Array, Array], Array], tuple[Array, Array]]:
    """Make the function that encodes the rows of a call: states `[c L B T D]`, and router losses `[c]`."""

    def encode(given: tuple[Array, Array, Array], number: Array) -> tuple[Array, Array]:
        embedded, token_mask, written = given
        together = len(written)
        states, balance = model.encode_balanced(
            join_rows(embedded),
            join_rows(token_mask),
            balance_groups=together,
            key=fold_key(fold_key(key, start + number), 0),
        )
        balance = jnp.where(written, balance, 0.0).astype(jnp.float32)
        found = jax.vmap(lambda layer: split_rows(layer, together), out_axes=1)(states), balance
        return found if gradient else jax.lax.stop_gradient(found)

    return encode


def _write(model: Any, memory: Array, encoded: _Encoded, key: Key | None, gradient: bool) -> tuple[Array, WriteReport]:
    """Update the memory of the rows that have a predecessor."""
    interaction = encoded.interaction
    updated = model.update_memory(memory, encoded.states, interaction.previous_token_mask, key=key)
    if not gradient:
        updated = jax.lax.stop_gradient(updated)
    updated = keep_rows(interaction.previous_valid, updated, memory)
    old, new = (jax.lax.stop_gradient(each).astype(jnp.float32) for each in (memory, updated))
    rms = jnp.sqrt(jnp.mean((new - old) ** 2, axis=(0, 2, 3)))
    norms = jnp.linalg.norm(new, axis=-1) * jnp.linalg.norm(old, axis=-1)
    cosine = jnp.mean(jnp.sum(new * old, axis=-1) / jnp.maximum(norms, 1e-8), axis=(0, 2))
    return updated, WriteReport(rms, cosine, encoded.balance)


def _keep(memory: Array) -> tuple[Array, WriteReport]:
    rows = memory.shape[1]
    return memory, WriteReport(jnp.zeros(rows, jnp.float32), jnp.ones(rows, jnp.float32), jnp.float32(0.0))


def _is_needed(interaction: Interaction) -> Array:
    return jnp.any(interaction.previous_valid & interaction.valid)
