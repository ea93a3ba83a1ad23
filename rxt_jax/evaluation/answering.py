"""What is read of an interaction: how likely its true answer is, and what the model answers itself.

Tokens of all rows are scored, condition by condition; rows that ask something are answered in groups, all conditions
side by side. No logits of whole rows exist: those of a few positions at a time.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.evaluation.groups import asked_rows, read_groups, take_memories, take_rows
from rxt_jax.evaluation.walk import Findings
from rxt_jax.losses.token_log_probs import TokenLogProbs, next_token_log_probs
from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.types import Array, ShapedArray

__all__ = ["AnswerRows", "ReadAnswers", "generate_rows", "read_tokens"]


class AnswerRows(NamedTuple):
    """Rows with their true answers, of one interaction `[B ...]` or of all `[I B ...]`."""

    ids: ShapedArray  # int32 [B T]
    token_mask: ShapedArray  # bool [B T]
    scored: ShapedArray  # bool [B T], tokens whose likelihood is wanted
    prompt_length: ShapedArray  # int32 [B], tokens given to a model that answers itself


@dataclass(frozen=True, kw_only=True)
class ReadAnswers:
    """Score true answers, and answer greedily where something is asked.

    It finds `TokenLogProbs` `[C B T]` of all rows, and ids of generated answers `[N P·C·g G]` by groups.

    width: tokens of the longest prompt, at most T.
    max_new_tokens: tokens of an answer, its end included.
    end_id, pad_id: the token that ends an answer, and what fills the place behind.
    """

    answers_per_row: ClassVar[int] = 1

    width: int
    max_new_tokens: int
    end_id: int
    pad_id: int

    def __call__(self, model: Any, memories: Array, rows: AnswerRows, groups: Array) -> Findings:
        """Read memories `[C L B S D]`."""

        def score(carry: None, memory: Array) -> tuple[None, TokenLogProbs]:
            return carry, read_tokens(model, memory, rows.ids, rows.token_mask, rows.scored)

        tokens = jax.lax.scan(score, None, memories)[1]
        return Findings(tokens, read_groups(lambda group: self._answer(model, memories, rows, group), groups))

    def _answer(self, model: Any, memories: Array, rows: AnswerRows, group: Array) -> Array:
        conditions = len(memories)
        ids, lengths = take_rows((rows.ids[:, : self.width], rows.prompt_length), group, conditions)
        prompt_mask = jnp.arange(self.width) < lengths[:, None]
        rules = make_rules(len(ids), jax.random.key(0))
        # Rows that ask nothing make no token, so the loop over tokens never waits for them.
        rules = rules._replace(limit=jnp.where(asked_rows(group, conditions), rules.limit, 0))
        return generate(
            model,
            take_memories(memories, group),
            jnp.where(prompt_mask, ids, self.pad_id),
            prompt_mask,
            rules,
            max_new_tokens=self.max_new_tokens,
            end_id=self.end_id,
            pad_id=self.pad_id,
        ).ids


def read_tokens(model: Any, memory: Any, ids: Array, token_mask: Array, scored: Array) -> TokenLogProbs:
    """Score the tokens `[B T]` where `scored` is True, each with its true predecessors, against one memory.

    Where no row has such a token the decoder does not run.
    """

    def read(memory: Any) -> TokenLogProbs:
        hidden, _ = model.decode_hidden(ids, token_mask, memory)
        return next_token_log_probs(model.logits, hidden, ids, scored)

    def skip(memory: Any) -> TokenLogProbs:
        return TokenLogProbs(jnp.zeros(ids.shape, jnp.float32), jnp.zeros(ids.shape, bool))

    return jax.lax.cond(jnp.any(scored[:, 1:]), read, skip, memory)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def generate_rows(
    graphdef: Any, params: Any, memory: Any, ids: Array, token_mask: Array, max_new_tokens: int, end_id: int
) -> Array:
    """Answer prompts greedily, from a memory or, with None, without; return new ids `[B G]`, padded after the end."""
    rules = make_rules(len(ids), jax.random.key(0))
    model = nnx.merge(graphdef, params)
    return generate(model, memory, ids, token_mask, rules, max_new_tokens=max_new_tokens, end_id=end_id).ids
