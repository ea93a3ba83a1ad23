"""Generation: a prefill and a step, joined by a while-loop, or by the caller who wants to see every token.

Memory is read through projections made once per interaction, the own tokens through a cache.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.serving.sampling import SamplingConfig, sample
from rxt_jax.types import Array, Key

__all__ = ["Generated", "Generation", "advance", "generate", "prefill"]


class Generation(NamedTuple):
    """Where a generation stands: caches, the next position of every row, logits of the next token."""

    cache: Any
    memory: Any
    position: Array  # int32 [B]
    logits: Array  # float32 [B V]


class Generated(NamedTuple):
    """New tokens `[B G]`; `mask` is True up to and including the end token."""

    ids: Array
    mask: Array
    log_probs: Array


def prefill(model: Any, memory: Array, ids: Array, token_mask: Array, room: int) -> Generation:
    """Read right-padded prompts `[B T]` and make room for `room` more tokens."""
    batch, length = ids.shape
    lengths = jnp.sum(token_mask, axis=1, dtype=jnp.int32)
    projection = model.project_memory(memory)
    positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
    logits, cache = model.decode_cached(
        ids, positions, token_mask, model.empty_cache(batch, length + room), projection, logits_at=lengths - 1
    )
    return Generation(cache, projection, lengths, logits)


def advance(model: Any, generation: Generation, ids: Array, active: Array) -> Generation:
    """Append one token per row; rows that are not `active` stay where they are."""
    logits, cache = model.decode_cached(
        ids[:, None],
        generation.position[:, None],
        active[:, None],
        generation.cache,
        generation.memory,
        logits_at=jnp.zeros_like(ids),
    )
    return Generation(cache, generation.memory, generation.position + active, logits)


def generate(
    model: Any,
    memory: Array,
    ids: Array,
    token_mask: Array,
    key: Key,
    *,
    max_new_tokens: int,
    end_id: int,
    sampling: SamplingConfig,
    pad_id: int = 0,
    first: tuple[int, ...] = (),
    width: int | None = None,
) -> Generated:
    """Continue right-padded prompts `[B T]` until every row has ended or `max_new_tokens` are made.

    `first` names the ids among which the likeliest is the first token: one id forces it. A row of
    prompt and new tokens never grows beyond `width`. To be called inside `jax.jit`: no token is seen
    by the host.
    """
    batch, length = ids.shape
    width = length + max_new_tokens if width is None else width
    empty = Generated(
        jnp.full((batch, max_new_tokens), pad_id, jnp.int32),
        jnp.zeros((batch, max_new_tokens), bool),
        jnp.zeros((batch, max_new_tokens), jnp.float32),
    )

    def going(carry: tuple) -> Array:
        step, _, active, _ = carry
        return (step < max_new_tokens) & jnp.any(active)

    def step(carry: tuple) -> tuple:
        number, generation, active, made = carry
        new, log_probs = sample(generation.logits, sampling, jax.random.fold_in(key, number))
        if first:
            chosen = jnp.array(first)[jnp.argmax(generation.logits[:, jnp.array(first)], axis=-1)]
            new = jnp.where(number == 0, chosen, new)
            log_probs = jnp.where(number == 0, 0.0, log_probs)
        new = jnp.where(active, new, pad_id)
        made = Generated(
            made.ids.at[:, number].set(new),
            made.mask.at[:, number].set(active),
            made.log_probs.at[:, number].set(jnp.where(active, log_probs, 0.0)),
        )
        still = active & (new != end_id) & (generation.position + 1 < width)
        return number + 1, advance(model, generation, new, still), still, made

    begun = prefill(model, memory, ids, token_mask, width - length)
    start = (jnp.int32(0), begun, begun.position < width, empty)
    return jax.lax.while_loop(going, step, start)[3]
