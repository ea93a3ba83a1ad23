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
from rxt_jax.data.template import prompt_ids
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.serving.interaction import interact
from rxt_jax.serving.streaming import ReplyText
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
) -> list[list[str | None]]:
    """Answer all messages of conversations greedily, as a `ChatSession` each would; `zeroed` reads empty memory.

    None stands for a message that leaves no room for an answer in `max_length` tokens: a chat refuses it,
    so nothing of it is remembered.
    """
    size = min(batch_size, len(conversations))
    graphdef, params = nnx.split(model)
    # Long conversations together: a batch goes on until its longest one has ended.
    order = sorted(range(len(conversations)), key=lambda number: -len(conversations[number]))
    answers: list[list[str | None]] = [[] for _ in conversations]
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        memory = jnp.repeat(model.initial_memory(1, jax.random.key(0)), size, axis=1)
        for turn in range(len(conversations[numbers[0]])):
            messages = [
                conversations[number][turn] if turn < len(conversations[number]) else None for number in numbers
            ]
            ids, mask, going = _prompts(messages, tokenizer, size, max_length)
            reads = jnp.zeros_like(memory) if zeroed else memory
            made, reply_mask, memory = _turn(graphdef, params, reads, ids, mask, going, tokenizer.special)
            made, reply_mask = jax.device_get((made, reply_mask))
            for row, number in enumerate(numbers):
                if going[row]:
                    answers[number].append(_answer_text(made[row][reply_mask[row]].tolist(), tokenizer))
                elif messages[row] is not None:
                    answers[number].append(None)
    return answers


def _prompts(
    messages: Sequence[str | None], tokenizer: Tokenizer, size: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write prompts `[B W]`, their masks, and which rows go on `[B]`.

    Filler is a full row: it has no room for a reply, so the loop over tokens never waits for it.
    """
    ids, mask = np.full((size, width), tokenizer.special.pad, np.int32), np.ones((size, width), bool)
    going = np.zeros(size, bool)
    for row, message in enumerate(messages):
        if message is None:
            continue
        prompt = prompt_ids({"query": message}, tokenizer.encode, tokenizer.special)
        if len(prompt) + 2 <= width:
            ids[row, : len(prompt)], mask[row, len(prompt) :], going[row] = prompt, False, True
    return ids, mask, going


def _answer_text(ids: list[int], tokenizer: Tokenizer) -> str:
    text = ReplyText(tokenizer)
    chunks = [*text.push(ids), *text.close()]
    return "".join(chunk for chunk in chunks if chunk.block == "answer").strip()


@functools.partial(jax.jit, static_argnums=(0, 6))
def _turn(
    graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array, going: Array, special: SpecialTokens
) -> tuple[Array, Array, Array]:
    """Answer `[B W]` and write memory `[L B S D]`; filler rows keep theirs."""
    model = nnx.merge(graphdef, params)
    answered = interact(model, memory, ids, mask, jax.random.key(0), special=special)
    written = jnp.where(going[None, :, None, None], answered.memory, memory)
    return answered.ids, answered.reply_mask, written
