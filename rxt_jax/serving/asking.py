"""Questions to a memory: answered all at once, and nothing of it is remembered."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.data.template import first_tokens
from rxt_jax.model.generation import Generated, generate, prompt_width
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.serving.chat_session import ChatSession
from rxt_jax.serving.streaming import Answer, answer_of
from rxt_jax.types import Array

__all__ = ["ask"]

_ROWS = 16  # numbers of questions are rounded up to a multiple, so that a few programs serve all


def ask(session: ChatSession, questions: Sequence[str]) -> list[Answer]:
    """Answer questions from the memory of a conversation as it is, greedily and without thinking.

    They are the rows of one batch that all read the same memory; the session stays as it was. A question that is too
    long is a `ValueError`, as in a turn.
    """
    if not questions:
        return []
    special = session.tokenizer.special
    prompts = [session.prompt(question) for question in questions]
    width = prompt_width(max(map(len, prompts)), session.max_length)
    ids = np.full((-(-len(questions) // _ROWS) * _ROWS, width), special.pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row in range(len(ids)):
        prompt = prompts[min(row, len(prompts) - 1)]
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
    made = _answer(*session.parameters, session.memory, ids, mask, special, session.max_length)
    new, real, log_probs = jax.device_get((made.ids, made.mask, made.raw_log_probs))
    rows = range(len(questions))
    return [answer_of(new[row][real[row]], log_probs[row][real[row]], session.tokenizer) for row in rows]


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _answer(
    graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array, special: SpecialTokens, width: int
) -> Generated:
    """Continue prompts `[B T]` up to `width` tokens, every one of them reading the memory `[L 1 S D]`."""
    return generate(
        nnx.merge(graphdef, params),
        jnp.repeat(memory, len(ids), axis=1),
        ids,
        mask,
        make_rules(len(ids), jax.random.key(0), first=first_tokens("fast", special)),
        max_new_tokens=width,
        end_id=special.eos,
        pad_id=special.pad,
        width=width,
    )
