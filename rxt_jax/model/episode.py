"""The one episode engine: walk a conversation interaction by interaction and carry only the memory.

    memory 0 ──▶ interaction 0 ──▶ memory ──▶ interaction 1 ──▶ … ──▶ (Σ loss, memory, Σ metrics)

Time grows linearly with the number of interactions I, memory of the backward pass by one `memory`
per interaction: everything inside an interaction is computed again when its gradient is due.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from rxt_jax.nn.remat import rematerialised
from rxt_jax.row_sharding import constrain
from rxt_jax.types import EpisodeBatch, Interaction, Key, Metrics

__all__ = [
    "InteractionObjective",
    "fold_key",
    "keep_rows",
    "real_before",
    "scan_findings",
    "scan_interactions",
    "scan_memories",
    "with_previous",
]

InteractionObjective = Callable[[Any, Any, Any, Key | None], tuple[Array, tuple[Any, Metrics]]]
"""`(model, memory, interaction, key) -> (loss_sum, (memory, metrics))`; memory keeps shapes and
dtypes."""


def fold_key(key: Key | None, number: int | Int[Array, ""]) -> Key | None:
    """Derive the key of a numbered thing; `None` (deterministic) stays `None`."""
    return None if key is None else jax.random.fold_in(key, number)


def with_previous(batch: EpisodeBatch) -> Interaction:
    """Give every interaction the real one before it, so that a scan needs to carry nothing but memory.

    Filler in between is passed over: what was said before a record that had to be dropped is written all the same.
    Until the first real interaction `previous_valid` is False and the row is empty.
    """
    ids, token_mask, valid = map(jnp.asarray, (batch.ids, batch.token_mask, batch.valid))
    previous_ids, previous_token_mask, previous_valid = real_before((ids, token_mask, valid), valid)
    return Interaction(
        ids=ids,
        token_mask=token_mask,
        loss_mask=jnp.asarray(batch.loss_mask),
        valid=valid,
        previous_ids=previous_ids,
        previous_token_mask=previous_token_mask,
        previous_valid=previous_valid,
        loss_weights=None if batch.loss_weights is None else jnp.asarray(batch.loss_weights),
    )


def real_before(rows: PyTree, valid: Bool[Array, "I B"]) -> PyTree:
    """Give every interaction the rows `[I B …]` of the last real one before it, zeros where there was none."""

    def remember(last: PyTree, here: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
        rows, valid = here
        return keep_rows(valid, rows, last, batch_axes=0), last

    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), rows)
    return jax.lax.scan(remember, nothing, (rows, valid))[1]


def keep_rows(chosen: Bool[Array, "B"], new: PyTree, old: PyTree, batch_axes: int | PyTree = 1) -> PyTree:
    """Take the chosen rows of `new`, the others of `old`.

    `batch_axes` is the axis that counts rows, for all leaves or as a prefix tree. Leaves keep the
    dtype of `old`, which a scan carry needs.
    """

    def select(axis: int, new_part: PyTree, old_part: PyTree) -> PyTree:
        def one(new_leaf: Array, old_leaf: Array) -> Array:
            shape = [1] * old_leaf.ndim
            shape[axis] = chosen.shape[0]
            return jnp.where(chosen.reshape(shape), new_leaf.astype(old_leaf.dtype), old_leaf)

        return jax.tree.map(one, new_part, old_part)

    return jax.tree.map(select, batch_axes, new, old)


def scan_interactions(
    interaction_objective: InteractionObjective,
    model: nnx.Module,
    memory: PyTree,
    interactions: Any,
    key: Key | None,
    *,
    memory_gradient_steps: int | None = None,
    remat: str = "full",
    batch_axes: int | PyTree = 1,
    start: int | Int[Array, ""] = 0,
) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
    """Run an interaction objective over an episode and add up its losses and metrics.

    `interactions` is any pytree with a leading I on every leaf and a field `valid[I B]`; a row
    that is filler keeps its memory. `memory_gradient_steps=k` lets a gradient cross at most k
    memory writes, `None` all of them: interaction 0 writes nothing, so the memory is detached
    before the interactions k + 1, 2k + 1, …; a learned initial memory is therefore always within
    reach of the first k writes. `start` is the number of interactions that the episode already
    had (an episode walked in windows). `remat` says what of an interaction is kept for the gradient
    (`nn/remat.py`). The key of interaction i is `fold_in(key, i)`. Source:
    docs/method.md, eq. 76.
    """
    memory, (losses, metrics, _) = _walk(
        interaction_objective, model, memory, interactions, key, memory_gradient_steps, remat, batch_axes, start, False
    )
    return jnp.sum(losses), (memory, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics))


def scan_memories(
    write: InteractionObjective,
    model: nnx.Module,
    memory: PyTree,
    interactions: Any,
    key: Key | None,
    *,
    memory_gradient_steps: int | None = None,
    remat: str = "full",
    start: int | Int[Array, ""] = 0,
) -> tuple[PyTree, Any]:
    """Run an objective that only writes; return the memory and the metrics of every interaction, `[I ...]`.

    In place of metrics `write` may return any arrays that are wanted interaction by interaction. Where reading does
    not change memory, all memories of an episode can be made first and read afterwards in calls as large as wanted.
    The rest is that of `scan_interactions`.
    """
    _, (_, metrics, memories) = _walk(
        write, model, memory, interactions, key, memory_gradient_steps, remat, 1, start, True
    )
    return memories, metrics


def scan_findings(
    objective: InteractionObjective,
    model: nnx.Module,
    memory: PyTree,
    interactions: Any,
    *,
    batch_axes: int | PyTree = 1,
) -> tuple[PyTree, PyTree]:
    """Run an objective for what it finds: return the last memory, and its metrics of every interaction, `[I ...]`.

    For measurements: no key, no gradient, and the metrics may be any pytree of arrays. Of all memories only the
    current one exists. The rest is that of `scan_interactions`.
    """
    memory, (_, found, _) = _walk(objective, model, memory, interactions, None, None, "none", batch_axes, 0, False)
    return memory, found


def _walk(
    interaction_objective: InteractionObjective,
    model: nnx.Module,
    memory: PyTree,
    interactions: Any,
    key: Key | None,
    memory_gradient_steps: int | None,
    remat: str,
    batch_axes: int | PyTree,
    start: int | Int[Array, ""],
    keep: bool,
) -> tuple[PyTree, tuple[Array, PyTree, PyTree]]:
    if memory_gradient_steps is not None and memory_gradient_steps < 1:
        raise ValueError(
            f"memory_gradient_steps must be None (whole episode) or at least 1, got "
            f"{memory_gradient_steps}. To train no memory write at all, take the memory groups out "
            f"of the stage's trainable groups."
        )
    graphdef, params = nnx.split(model)

    def body(memory: PyTree, inputs: tuple[Any, Array]) -> tuple[PyTree, tuple[Array, PyTree, PyTree]]:
        interaction, index = inputs
        if memory_gradient_steps is not None:
            cut = (index > 1) & ((index - 1) % memory_gradient_steps == 0)
            memory = jax.tree.map(lambda leaf: jnp.where(cut, jax.lax.stop_gradient(leaf), leaf), memory)
        # Merged here, not outside: a Variable belongs to the trace that made it.
        here = nnx.merge(graphdef, params, copy=True)
        loss, (updated, metrics) = interaction_objective(here, memory, interaction, fold_key(key, index))
        memory = _constrain_rows(keep_rows(interaction.valid, updated, memory, batch_axes), batch_axes)
        return memory, (loss.astype(jnp.float32), metrics, memory if keep else None)

    indices = start + jnp.arange(interactions.valid.shape[0])
    return jax.lax.scan(rematerialised(body, remat), _constrain_rows(memory, batch_axes), (interactions, indices))


def _constrain_rows(memory: PyTree, batch_axes: int | PyTree) -> PyTree:
    """Split the rows of what is carried over the devices; a loop has one layout for all of its rounds."""

    def part(axis: int, memory: PyTree) -> PyTree:
        def one(leaf: Array) -> Array:
            return constrain(leaf, ["batch" if place == axis else None for place in range(leaf.ndim)])

        return jax.tree.map(one, memory)

    return jax.tree.map(part, batch_axes, memory)
