"""A conversation: answer from memory, then write the interaction into memory."""

import functools
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.template import prompt_ids
from rxt_jax.data.tokenizer import StreamDecoder, Tokenizer
from rxt_jax.serving.generation import Generation, advance, prefill
from rxt_jax.serving.sampling import SamplingConfig, sample
from rxt_jax.types import Array, Key

__all__ = ["ChatSession", "Chunk", "MemoryChange", "Thinking"]

Thinking = Literal["fast", "extended", "auto"]
"""Answer at once, think first, or let the model choose, once, at the end of the prompt."""


class Chunk(NamedTuple):
    """A piece of streamed text and the block it belongs to."""

    block: Literal["think", "answer", "tool_call"]
    text: str


class MemoryChange(NamedTuple):
    """Root mean square of memory and of its last change, `[L S]`."""

    level: np.ndarray
    change: np.ndarray


class ChatSession:
    """One conversation with a model. The memory is a value: read `memory`, keep it, put it back.

    Everything runs at fixed shapes (`max_length` tokens per interaction), so each function compiles once.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        sampling: SamplingConfig | None = None,
        thinking: Thinking = "fast",
        seed: int = 0,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length or model.config.max_length
        self.sampling = sampling or SamplingConfig()
        self.thinking: Thinking = thinking
        self._graphdef, self._params = nnx.split(model)
        self._key = jax.random.key(seed)
        self._turns = 0
        described = repr(model.config) + tokenizer.fingerprint
        self._fingerprint = hashlib.sha256(described.encode()).hexdigest()
        self._initial = model.initial_memory(1, jax.random.fold_in(self._key, 0))
        self.memory: Array = self._initial
        self.previous_memory: Array = self._initial

    def reset(self) -> None:
        """Forget everything."""
        self.memory = self.previous_memory = self._initial

    def reply(
        self, query: str | None = None, *, tool_use: str | None = None, internal: str | None = None
    ) -> Iterator[Chunk]:
        """Stream the reply to a query or to a tool's result; memory is written when it is complete.

        A prompt of `max_length` tokens or more leaves no room for an answer and is an error.
        """
        if bool(query) == bool(tool_use):
            raise ValueError("reply needs either a query or the result of a tool, and not both.")
        special = self.tokenizer.special
        record = {"query": query, "tool_use": tool_use, "internal": internal}
        prompt = prompt_ids(record, self.tokenizer.encode, special)
        if len(prompt) + 2 > self.max_length:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, but one interaction holds {self.max_length} with its answer. "
                f"Say it in several turns."
            )
        return self._stream(prompt)

    def answer(self, query: str, **options: Any) -> str:
        """Return the whole answer of a turn, without thoughts and tool calls."""
        return "".join(chunk.text for chunk in self.reply(query, **options) if chunk.block == "answer")

    def memory_change(self) -> MemoryChange:
        """Measure what the last interaction changed."""

        def size(array: Array) -> np.ndarray:
            return np.sqrt(np.mean(np.asarray(array, np.float32)[:, 0] ** 2, axis=-1))

        return MemoryChange(size(self.memory), size(self.memory - self.previous_memory))

    def save(self, path: str | Path) -> None:
        """Write the memory to a file."""
        with Path(path).open("wb") as file:
            np.savez(file, memory=np.asarray(self.memory), fingerprint=np.array(self._fingerprint))

    def load(self, path: str | Path) -> None:
        """Take the memory from a file; one of another model or tokenizer is refused."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist; /save FILE writes one")
        try:
            with np.load(path) as stored:
                memory, fingerprint = stored["memory"], str(stored["fingerprint"])
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no memory file: {error}") from error
        if fingerprint != self._fingerprint:
            raise ValueError(f"{path} holds the memory of another model or tokenizer; load it with that one")
        self.memory = self.previous_memory = jnp.asarray(memory)

    def _stream(self, prompt: list[int]) -> Iterator[Chunk]:
        special, room = self.tokenizer.special, self.max_length - len(prompt)
        blocks = {special.think: "think", special.answer: "answer", special.tool_call: "tool_call"}
        key = jax.random.fold_in(self._key, 1 + self._turns)
        self._turns += 1
        generation = _prefill(self._graphdef, self._params, self.memory, *self._padded(prompt))
        made: list[int] = []
        block, decoder = "answer", StreamDecoder(self.tokenizer)
        for number in range(room):
            token = self._next(generation, number, key)
            made.append(token)
            if token in blocks or token == special.eos:
                if rest := decoder.close():
                    yield Chunk(block, rest)  # type: ignore[arg-type]
                block, decoder = blocks.get(token, block), StreamDecoder(self.tokenizer)
            elif text := decoder.push(token):
                yield Chunk(block, text)  # type: ignore[arg-type]
            if token == special.eos:
                break
            generation = _advance(self._graphdef, self._params, generation, jnp.array([token], jnp.int32))
        else:
            if rest := decoder.close():
                yield Chunk(block, rest)  # type: ignore[arg-type]
        self.previous_memory = self.memory
        self.memory = _write(self._graphdef, self._params, self.memory, *self._padded(prompt + made))

    def _next(self, generation: Generation, number: int, key: Key) -> int:
        special = self.tokenizer.special
        if number == 0 and self.thinking != "auto":
            return special.answer if self.thinking == "fast" else special.require("think")
        logits = generation.logits
        if number == 0:
            choices = jnp.array([special.answer, special.require("think")])
            return int(choices[jnp.argmax(logits[0, choices])])
        return int(_sample(logits, self.sampling, jax.random.fold_in(key, number))[0][0])

    def _padded(self, ids: list[int]) -> tuple[Array, Array]:
        row = np.full((1, self.max_length), self.tokenizer.special.pad, np.int32)
        row[0, : len(ids)] = ids[: self.max_length]
        return jnp.asarray(row), jnp.arange(self.max_length)[None] < len(ids)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array) -> Generation:
    # The prompt is padded to the whole interaction, so the cache needs no more room than that.
    return prefill(nnx.merge(graphdef, params), memory, ids, mask, 0)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(graphdef: Any, params: Any, generation: Generation, ids: Array) -> Generation:
    return advance(nnx.merge(graphdef, params), generation, ids, jnp.ones(ids.shape, bool))


@functools.partial(jax.jit, static_argnums=0)
def _write(graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array) -> Array:
    model = nnx.merge(graphdef, params)
    return model.update_memory(memory, model.encode(ids, mask), mask)


_sample = jax.jit(sample, static_argnums=1)
