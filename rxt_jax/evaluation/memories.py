"""Memories of whole conversations, as they are and spoilt, and what a decoder makes of them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.model.episode import scan_interactions, with_previous
from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.stages.memory_aware import write_previous
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key, Metrics

__all__ = ["collect_memories", "generate_rows", "score_tokens", "under_condition"]


class _Walk(NamedTuple):
    """An interaction and its number; all rows go on, so that ended conversations keep their last memory."""

    interaction: Interaction
    index: Array
    valid: Array


@functools.partial(jax.jit, static_argnums=0)
def collect_memories(graphdef: Any, params: Any, batch: EpisodeBatch) -> Array:
    """Walk conversations once; return the memory that every interaction reads, `[I L B S D]`."""
    model = nnx.merge(graphdef, params)
    count, rows, _ = batch.ids.shape
    first = model.initial_memory(rows, jax.random.key(0))

    def write(model: Any, carry: tuple, walk: _Walk, key: Key | None) -> tuple[Array, tuple[tuple, Metrics]]:
        memory, collected = carry
        memory, _ = write_previous(model, memory, walk.interaction, key)
        return jnp.float32(0.0), ((memory, collected.at[walk.index].set(memory)), {})

    walk = _Walk(with_previous(batch), jnp.arange(count), jnp.ones((count, rows), bool))
    collected = jnp.zeros((count, *first.shape), first.dtype)
    _, ((_, collected), _) = scan_interactions(
        write, model, (first, collected), walk, None, remat=False, batch_axes=(1, 2)
    )
    return collected


def under_condition(memories: Array, condition: str) -> Array:
    """Return memories `[I L B S D]` as an evaluation condition wants them.

    `shuffled` gives every conversation the memory of its neighbour at the same turn: no row keeps its own.
    """
    if condition == "memory":
        return memories
    if condition == "zeroed":
        return jnp.zeros_like(memories)
    if condition == "shuffled":
        if memories.shape[2] < 2:
            raise ValueError("shuffled memory needs at least 2 conversations in a batch; raise evaluation.batch_size.")
        return jnp.roll(memories, 1, axis=2)
    if condition == "frozen":
        return memories[jnp.minimum(jnp.arange(len(memories)), 1)]
    raise ValueError(f"unknown condition {condition!r}.")


@functools.partial(jax.jit, static_argnums=0)
def score_tokens(graphdef: Any, params: Any, batch: EpisodeBatch, memories: Array) -> tuple[Array, Array]:
    """Score every token with its true predecessors: negative log-likelihood and hit, both `[I B T]`."""
    model = nnx.merge(graphdef, params)

    def step(carry: None, inputs: tuple) -> tuple[None, tuple[Array, Array]]:
        ids, token_mask, memory = inputs
        logits = model.decode(ids, token_mask, memory)[:, :-1]
        target = jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
        chosen = target - jax.nn.logsumexp(logits, axis=-1)
        hit = target == jnp.max(logits, axis=-1)  # argmax is slow on a CPU; an exact tie counts as a hit
        return carry, (jnp.pad(-chosen, ((0, 0), (1, 0))), jnp.pad(hit, ((0, 0), (1, 0))))

    return jax.lax.scan(step, None, (batch.ids, batch.token_mask, memories))[1]


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def generate_rows(
    graphdef: Any, params: Any, memory: Array, ids: Array, token_mask: Array, max_new_tokens: int, end_id: int
) -> Array:
    """Answer prompts greedily; return the new ids `[B G]`, padded after the end token."""
    model = nnx.merge(graphdef, params)
    return generate(
        model,
        memory,
        ids,
        token_mask,
        make_rules(len(ids), jax.random.key(0)),
        max_new_tokens=max_new_tokens,
        end_id=end_id,
    ).ids
