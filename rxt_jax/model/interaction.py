"""One whole interaction of many conversations at once: answer, then write memory. Source: docs/method.md §12.2."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import Rules
from rxt_jax.ops.joining import join_masks, join_parts

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
    masks = (token_mask, made.mask)
    none, nothing = jnp.zeros_like(token_mask), jnp.zeros(token_mask.shape)
    whole, mask = join_parts((ids, made.ids), masks, width, pad_id), join_masks(masks, width)
    reply_mask = join_parts((none, made.mask), masks, width)
    log_probs, raw = (join_parts((nothing, each), masks, width) for each in (made.log_probs, made.raw_log_probs))
    written = model.update_memory(memory, model.encode(whole, mask), mask)
    return Answered(whole, mask, reply_mask, log_probs, raw, written)
