"""Walking a conversation for somebody who looks on: rows, the model's own answers, and memory after every turn."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.data.template import first_tokens, prompt_ids
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.model.interaction import interact
from rxt_jax.types import Array

__all__ = ["Walker", "has_output"]


class Walker:
    """A model that walks conversations one by one; `start` is the memory `[L 1 S D]` before all of them."""

    def __init__(self, model: Any, tokenizer: Tokenizer, data: DataConfig):
        self.graphdef, self.params = nnx.split(model)
        self.tokenizer, self.length = tokenizer, data.max_length
        self.start = beginning_memory(model, 1, None)
        self._encoder = RowEncoder(tokenizer, replace(data, overlong="cut_input_first"))

    def rows(self, episode: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Row | None]]:
        """Give every interaction with its row, None where the model is to answer; a system prompt comes first."""
        rows: list[tuple[Mapping[str, Any], Row | None]] = []
        if self._encoder.leading_rows(episode):
            rows.append(({"system": episode["system"], "answer": ""}, self._encoder.unit(episode, 0)))
        for each in episode["interactions"]:
            rows.append((each, self._encoder.interaction(each) if has_output(each) else None))
        return rows

    def answered(self, interaction: Mapping[str, Any], memory: Array, number: int) -> Row:
        """Let the model answer, and return the row with what it said."""
        prompt = prompt_ids(interaction, self.tokenizer.encode, self.tokenizer.special)
        if len(prompt) + 2 > self.length:
            raise ValueError(
                f"interaction {number} has {len(prompt)} tokens, but one interaction holds {self.length} with its "
                f"answer. Shorten it, or give it an answer of its own."
            )
        ids, mask, _ = self.arrays(Row(prompt, len(prompt)))
        made, real = _reply(self.graphdef, self.params, memory, ids, mask, self.tokenizer.special, self.length)
        return Row(np.asarray(made)[np.asarray(real)].tolist(), len(prompt))

    def arrays(self, row: Row) -> tuple[Array, Array, Array]:
        """Write a row as ids, token mask and scored tokens, each `[1 T]`."""
        ids = np.full((1, self.length), self.tokenizer.special.pad, np.int32)
        ids[0, : len(row.ids)] = row.ids
        places = np.arange(self.length)[None]
        scored = (places > row.prompt_length) & (places < len(row.ids))
        return jnp.asarray(ids), jnp.asarray(places < len(row.ids)), jnp.asarray(scored)

    def memories_of(self, episode: Mapping[str, Any]) -> list[Array]:
        """Walk a conversation and give the memory that every interaction finds, and the last one."""
        memories = [self.start]
        for number, (interaction, row) in enumerate(self.rows(episode)):
            row = self.answered(interaction, memories[-1], number) if row is None else row
            ids, mask, _ = self.arrays(row)
            memories.append(_write(self.graphdef, self.params, memories[-1], ids, mask))
        return memories


def has_output(interaction: Mapping[str, Any]) -> bool:
    """Whether a conversation says what was answered (a system prompt wants no answer)."""
    return any(interaction.get(name) for name in ("answer", "tool_call")) or "system" in interaction


@functools.partial(jax.jit, static_argnums=0)
def _write(graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array) -> Array:
    model = nnx.merge(graphdef, params)
    return model.update_memory(memory, model.encode(ids, mask), mask)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _reply(
    graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array, special: SpecialTokens, width: int
) -> tuple[Array, Array]:
    rules = make_rules(1, jax.random.key(0), first=first_tokens("fast", special))
    model = nnx.merge(graphdef, params)
    answered = interact(model, memory, ids, mask, rules, width=width, end_id=special.eos, pad_id=special.pad)
    return answered.ids, answered.token_mask
