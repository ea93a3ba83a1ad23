"""Memories of whole conversations, as they are and spoilt, and what a decoder makes of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.losses.token_log_probs import next_token_log_probs
from rxt_jax.model.episode import scan_memories, with_previous
from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.stages.memory_aware import write_without_scoring
from rxt_jax.types import Array, EpisodeBatch

__all__ = ["collect_memories", "generate_rows", "score_tokens", "under_condition"]


@functools.partial(jax.jit, static_argnums=0)
def collect_memories(graphdef: Any, params: Any, batch: EpisodeBatch) -> Array:
    """Walk conversations once; return the memory that every interaction reads, `[I L B S D]`."""
    model = nnx.merge(graphdef, params)
    memory = beginning_memory(model, batch.ids.shape[1], None)
    # All rows go on: what a conversation that has ended said last is in the memory that its neighbour reads.
    interactions = with_previous(batch)
    interactions = interactions._replace(valid=jnp.ones_like(interactions.valid))
    return scan_memories(write_without_scoring, model, memory, interactions, None, remat=False)[0]


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
    """Score every real token with its true predecessors: negative log-likelihood and hit, both `[I B T]`; an exact tie
    counts as a hit."""
    model = nnx.merge(graphdef, params)

    def step(carry: None, inputs: tuple) -> tuple[None, tuple[Array, Array]]:
        ids, token_mask, memory = inputs
        hidden, _ = model.decode_hidden(ids, token_mask, memory)
        found = next_token_log_probs(model.logits, hidden, ids, token_mask)
        return carry, (-found.log_probs, found.correct)

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
