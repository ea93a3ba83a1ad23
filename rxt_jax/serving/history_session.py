"""A conversation with the stateless baseline, which keeps the past as text and reads it again.

The counterpart of `ChatSession`: same calls, same template, no memory. Source: docs/method.md §10.7.
"""

import functools
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.template import ThinkingMode, first_tokens, turn_ids
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation import Generation, prefill, read
from rxt_jax.model.generation_rules import Rules, SamplingConfig, make_rules
from rxt_jax.serving.streaming import Chunk, stream_reply
from rxt_jax.types import Array

__all__ = ["HistorySession"]

_SMALLEST_BUCKET = 32


class HistorySession:
    """One conversation with a `BaselineTransformer`; `history` holds all its tokens.

    With `persistent_cache` keys and values of the past are kept and only new tokens are read; without it every
    turn reads the whole past again, as a stateless service does. Lengths are rounded up to powers of two, one
    compile each; `reply_tokens` bounds a reply.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        sampling: SamplingConfig | None = None,
        mode: ThinkingMode = "fast",
        reply_tokens: int = 64,
        persistent_cache: bool = True,
        stream_tokens: int = 4,
        seed: int = 0,
    ):
        first_tokens(mode, tokenizer.special)  # refuses a mode that there is not, or that needs another tokenizer
        self.tokenizer = tokenizer
        self.sampling = sampling or SamplingConfig()
        self.mode: ThinkingMode = mode
        self.reply_tokens = reply_tokens
        self.persistent_cache = persistent_cache
        self.stream_tokens = stream_tokens
        self._length = model.config.max_length
        self._graphdef, self._params = nnx.split(model)
        self._key = jax.random.key(seed)
        self._turns = 0
        self.confidence: float | None = None
        """How sure the model was of its last reply (`streaming.confidence`)."""
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.history: list[int] = []
        self._generation: Generation | None = None
        self._read = 0

    def send(
        self,
        query: str | None = None,
        *,
        tool_result: str | None = None,
        mode: ThinkingMode | None = None,
        internal: str | None = None,
    ) -> Generator[Chunk, None, bool]:
        """Stream the reply to a query or to a tool's result; the generator returns whether it ended by itself.

        A conversation that is full is an error.
        """
        prompt = turn_ids(query, tool_result, internal, self.tokenizer.encode, self.tokenizer.special)
        row = self.history + prompt[bool(self.history) :]
        if len(row) + 2 > self._length:
            raise ValueError(
                f"the conversation has {len(row)} tokens, but the model reads {self._length} with the answer. "
                f"Begin a new one."
            )
        return self._stream(row, first_tokens(mode or self.mode, self.tokenizer.special))

    def answer(self, query: str, **options: Any) -> str:
        """Return the whole answer of a turn, without thoughts and tool calls."""
        return "".join(chunk for chunk in self.send(query, **options) if chunk.block == "answer")

    def _stream(self, row: list[int], first: tuple[int, ...]) -> Generator[Chunk, None, bool]:
        key = jax.random.fold_in(self._key, 1 + self._turns)
        self._turns += 1
        special = self.tokenizer.special
        width = min(_bucket(len(row) + self.reply_tokens), self._length)
        rules = make_rules(1, key, sampling=self.sampling, limit=self.reply_tokens, first=first)
        kept, self._generation = self._generation, None
        if kept is None:
            self._read = 0
            generation = _prefill(self._graphdef, self._params, *self._padded(row, width), rules, width)
        else:
            new = self._padded(row[self._read :], width)
            generation = _read(self._graphdef, self._params, kept, *new, rules, width)
        self.history = row
        made = yield from stream_reply(self._graphdef, self._params, generation, self.tokenizer, self.stream_tokens)
        self.confidence = made.confidence
        self.history = row + made.ids
        if self.persistent_cache:
            # The token that ended the reply has not been read: it comes with the next prompt.
            self._generation, self._read = made.generation, len(self.history) - 1
        return special.eos in made.ids

    def _padded(self, ids: list[int], width: int) -> tuple[Array, Array]:
        length = min(_bucket(len(ids)), width)
        row = np.full((1, length), self.tokenizer.special.pad, np.int32)
        row[0, : len(ids)] = ids
        return jnp.asarray(row), jnp.arange(length)[None] < len(ids)


def _bucket(length: int) -> int:
    """Round up to a power of two."""
    return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())


@functools.partial(jax.jit, static_argnums=(0, 5))
def _prefill(graphdef: Any, params: Any, ids: Array, mask: Array, rules: Rules, width: int) -> Generation:
    return prefill(nnx.merge(graphdef, params), None, ids, mask, rules, width)


@functools.partial(jax.jit, static_argnums=(0, 6))
def _read(
    graphdef: Any, params: Any, kept: Generation, ids: Array, mask: Array, rules: Rules, width: int
) -> Generation:
    wide = kept._replace(cache=kept.cache.widened(width))
    return read(nnx.merge(graphdef, params), wide, ids, mask, rules, width)
