"""Questions to a memory: answered all at once, and nothing of it is remembered."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.serving.chat_session import ChatSession
from rxt_jax.serving.generation import Generated, generate
from rxt_jax.serving.interaction import first_tokens
from rxt_jax.serving.sampling import SamplingConfig
from rxt_jax.serving.streaming import ReplyText
from rxt_jax.types import Array

__all__ = ["ask"]

_ROWS = 16  # numbers of questions are rounded up to a multiple, so that a few programs serve all


def ask(session: ChatSession, questions: Sequence[str]) -> list[str]:
    """Answer questions from the memory of a conversation as it is, greedily and without thinking.

    They are the rows of one batch that all read the same memory; the session stays as it was. A question that is too
    long is a `ValueError`, as in a turn.
    """
    if not questions:
        return []
    special = session.tokenizer.special
    ids = np.full((-(-len(questions) // _ROWS) * _ROWS, session.max_length), special.pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row in range(len(ids)):
        prompt = session.prompt(questions[min(row, len(questions) - 1)])
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
    made = _answer(
        *session.parameters, session.memory, ids, mask, special.eos, special.pad, first_tokens("fast", special)
    )
    new, real = jax.device_get((made.ids, made.mask))
    return [_answer_text(new[row][real[row]].tolist(), session) for row in range(len(questions))]


def _answer_text(ids: list[int], session: ChatSession) -> str:
    text = ReplyText(session.tokenizer)
    return "".join(chunk for chunk in [*text.push(ids), *text.close()] if chunk.block == "answer").strip()


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def _answer(
    graphdef: Any,
    params: Any,
    memory: Array,
    ids: Array,
    mask: Array,
    end_id: int,
    pad_id: int,
    first: tuple[int, ...],
) -> Generated:
    """Continue prompts `[B T]`, every one of them reading the memory `[L 1 S D]`."""
    width = ids.shape[1]
    return generate(
        nnx.merge(graphdef, params),
        jnp.repeat(memory, len(ids), axis=1),
        ids,
        mask,
        jax.random.key(0),
        max_new_tokens=width,
        end_id=end_id,
        sampling=SamplingConfig(),
        pad_id=pad_id,
        first=first,
        width=width,
    )
