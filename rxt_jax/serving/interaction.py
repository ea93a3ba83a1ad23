"""One whole interaction of many conversations at once: answer, then write memory. Source: docs/method.md §12.2."""

from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.serving.generation import generate
from rxt_jax.serving.sampling import SamplingConfig
from rxt_jax.types import Array, Key

__all__ = ["Answered", "ThinkingMode", "first_tokens", "interact"]

ThinkingMode = Literal["fast", "extended", "auto"]
"""The first token of a reply: answer, thought, or the likelier of the two, chosen once."""


class Answered(NamedTuple):
    """Prompts with their replies `[B W]`, and memory after them.

    `reply_mask` is True on the reply, its first token and its end included. `log_probs` (of the
    distribution sampled from; 0 for the first token, which is not drawn) and `raw_log_probs` (of the
    model) belong to the tokens they stand beside.
    """

    ids: Array
    token_mask: Array
    reply_mask: Array
    log_probs: Array
    raw_log_probs: Array
    memory: Array


def first_tokens(mode: ThinkingMode, special: SpecialTokens) -> tuple[int, ...]:
    """List the ids among which a reply's first token is chosen."""
    if mode not in get_args(ThinkingMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(ThinkingMode))}, got {mode!r}.")
    if mode == "fast":
        return (special.answer,)
    think = special.require("think")
    return (think,) if mode == "extended" else (special.answer, think)


def interact(
    model: Any,
    memory: Array,
    ids: Array,
    token_mask: Array,
    key: Key,
    *,
    special: SpecialTokens,
    mode: ThinkingMode = "fast",
    sampling: SamplingConfig | None = None,
) -> Answered:
    """Answer right-padded prompts `[B W]` within their width, then write the interactions into memory.

    A row that has no room left gets no reply but is written all the same. To be called inside
    `jax.jit`.
    """
    width = ids.shape[1]
    made = generate(
        model,
        memory,
        ids,
        token_mask,
        key,
        max_new_tokens=width,
        end_id=special.eos,
        sampling=sampling or SamplingConfig(),
        pad_id=special.pad,
        first=first_tokens(mode, special),
        width=width,
    )
    rows = jnp.arange(len(ids))[:, None]
    columns = jnp.sum(token_mask, axis=1, keepdims=True) + jnp.arange(width)
    columns = jnp.where(made.mask, columns, width)  # beyond the row: dropped

    def place(into: Array, values: Array) -> Array:
        return into.at[rows, columns].set(values, mode="drop")

    reply_mask = place(jnp.zeros_like(token_mask), made.mask)
    whole = place(jnp.where(token_mask, ids, special.pad), made.ids)
    mask = token_mask | reply_mask
    written = model.update_memory(memory, model.encode(whole, mask), mask)
    log_probs, raw = (place(jnp.zeros(ids.shape), each) for each in (made.log_probs, made.raw_log_probs))
    return Answered(whole, mask, reply_mask, log_probs, raw, written)
