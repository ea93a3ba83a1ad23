"""One whole interaction of many conversations at once: answer, then write memory. Source: docs/method.md §12.2."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import Rules

__all__ = ["Answered", "interact"]


class Answered(NamedTuple):
    """Prompts with their replies `[B T]`, and memory after them.

    `reply_mask` is True on the reply, its first token and its end included. `log_probs` (of the
    distribution sampled from; 0 for a first token that the rules name) and `raw_log_probs` (of the
    model) belong to the tokens they stand beside.
    """

    ids: Array
    token_mask: Array
    reply_mask: Array
    log_probs: Array
    raw_log_probs: Array
    memory: Array


def interact(
    model: Any,
    memory: Float[Array, "L B S D"],
    ids: Int[Array, "B T"],
    token_mask: Bool[Array, "B T"],
    rules: Rules,
    *,
    width: int,
    end_id: int,
    pad_id: int = 0,
) -> Answered:
    """Answer right-padded prompts within `width` tokens, at least T, then write the interactions into memory.

    A row that has no room left, or whose rules leave none, gets no reply but is written all the same. To be called
    inside `jax.jit`.
    """
    made = generate(
        model, memory, ids, token_mask, rules, max_new_tokens=width, end_id=end_id, pad_id=pad_id, width=width
    )
    room = ((0, 0), (0, width - ids.shape[1]))
    prompt = jnp.pad(jnp.where(token_mask, ids, pad_id), room, constant_values=pad_id)
    prompt_mask = jnp.pad(token_mask, room)
    rows = jnp.arange(len(ids))[:, None]
    columns = jnp.sum(token_mask, axis=1, keepdims=True) + jnp.arange(width)
    columns = jnp.where(made.mask, columns, width)  # beyond the row: dropped

    def place(into: Array, values: Array) -> Array:
        return into.at[rows, columns].set(values, mode="drop")

    reply_mask = place(jnp.zeros_like(prompt_mask), made.mask)
    whole, mask = place(prompt, made.ids), prompt_mask | reply_mask
    written = model.update_memory(memory, model.encode(whole, mask), mask)
    log_probs, raw = (place(jnp.zeros(whole.shape), each) for each in (made.log_probs, made.raw_log_probs))
    return Answered(whole, mask, reply_mask, log_probs, raw, written)
