"""Conversations that run freely: the model answers every message itself, and its own answers are what it remembers.

Rows of a batch are conversations; one turn of all of them is one call of one program.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.data.template import first_tokens, prompt_ids
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation import prompt_width
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.model.interaction import interact
from rxt_jax.serving.streaming import Answer, answer_of
from rxt_jax.types import Array

__all__ = ["answer_freely"]


def answer_freely(
    model: Any,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[str]],
    *,
    max_length: int,
    batch_size: int,
    zeroed: bool = False,
) -> list[list[Answer | None]]:
    """Answer all messages of conversations greedily, as a `ChatSession` each would; `zeroed` reads empty memory.

    None stands for a message that leaves no room for an answer in `max_length` tokens: a chat refuses it,
    so nothing of it is remembered.
    """
    size = min(batch_size, len(conversations))
    graphdef, params = nnx.split(model)
    prompts = [[_prompt(message, tokenizer, max_length) for message in messages] for messages in conversations]
    lengths = [len(prompt) for each in prompts for prompt in each if prompt is not None]
    width = prompt_width(max(lengths, default=0), max_length)  # one for all, one compilation
    # Long conversations together: a batch goes on until its longest one has ended.
    order = sorted(range(len(conversations)), key=lambda number: -len(conversations[number]))
    answers: list[list[Answer | None]] = [[] for _ in conversations]
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        memory = jnp.repeat(beginning_memory(model, 1, None), size, axis=1)
        for turn in range(len(conversations[numbers[0]])):
            said = [prompts[number][turn] if turn < len(prompts[number]) else None for number in numbers]
            ids, mask = _padded(said, tokenizer.special.pad, size, width)
            reads = jnp.zeros_like(memory) if zeroed else memory
            made, memory = _turn(graphdef, params, reads, ids, mask, tokenizer.special, max_length)
            new, reply_mask, log_probs = jax.device_get(made)
            for row, number in enumerate(numbers):
                if said[row] is not None:
                    own = reply_mask[row]
                    answers[number].append(answer_of(new[row][own], log_probs[row][own], tokenizer))
                elif turn < len(prompts[number]):
                    answers[number].append(None)
    return answers


def _prompt(message: str, tokenizer: Tokenizer, max_length: int) -> list[int] | None:
    """Write a prompt, or None where no answer fits behind it."""
    prompt = prompt_ids({"query": message}, tokenizer.encode, tokenizer.special)
    return prompt if len(prompt) + 2 <= max_length else None


def _padded(prompts: Sequence[list[int] | None], pad: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Write prompts `[B T]` and their masks; rows without one are filler, all of it padding."""
    ids, mask = np.full((size, width), pad, np.int32), np.zeros((size, width), bool)
    for row, prompt in enumerate(prompts):
        if prompt is not None:
            ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
    return ids, mask


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _turn(
    graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array, special: SpecialTokens, width: int
) -> tuple[tuple[Array, Array, Array], Array]:
    """Answer prompts `[B T]` within `width` tokens and write memory `[L B S D]`; filler rows keep theirs."""
    model, going = nnx.merge(graphdef, params), jnp.any(mask, axis=1)
    rules = make_rules(len(ids), jax.random.key(0), first=first_tokens("fast", special))
    # Filler makes no token, so the loop over tokens never waits for it.
    rules = rules._replace(limit=jnp.where(going, rules.limit, 0))
    answered = interact(model, memory, ids, mask, rules, width=width, end_id=special.eos, pad_id=special.pad)
    written = jnp.where(going[None, :, None, None], answered.memory, memory)
    return (answered.ids, answered.reply_mask, answered.raw_log_probs), written
