"""A conversation: answer from memory, then write the interaction into memory."""

import functools
import hashlib
import math
import zipfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.data.template import SYSTEM_TITLE, ThinkingMode, first_tokens, system_prompt_ids, turn_ids
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation import Generation, prefill, prompt_width, prompt_widths
from rxt_jax.model.generation_rules import Rules, SamplingConfig, join_rules, make_rules
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.model.interaction import Answered, interact
from rxt_jax.paths import as_path, local_copy
from rxt_jax.serving.memory_change import MemoryChange, measure_change
from rxt_jax.serving.streaming import Chunk, ReplyText, stream_reply
from rxt_jax.types import Array, Key

__all__ = ["ChatSession", "answer_together"]


class ChatSession:
    """One conversation with a model. The memory is a value: read `memory`, keep it, put it back.

    Everything runs at fixed shapes: prompts are read, and interactions written, at one of a few widths; replies have
    room for `max_length` tokens per interaction. So every function compiles once, reading and writing once per width;
    sampling and mode are data, and other ones compile nothing.
    `mode` is how replies begin unless a turn says otherwise; `stream_tokens` are made between two looks
    at the device, `reply_tokens` bounds a reply (None = until the interaction is full).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        sampling: SamplingConfig | None = None,
        mode: ThinkingMode = "fast",
        stream_tokens: int = 4,
        reply_tokens: int | None = None,
        seed: int = 0,
    ):
        first_tokens(mode, tokenizer.special)  # refuses a mode that there is not, or that needs another tokenizer
        self.tokenizer = tokenizer
        self.max_length = max_length or model.config.max_length
        self.sampling = sampling or SamplingConfig()
        self.mode: ThinkingMode = mode
        self.stream_tokens = stream_tokens
        self.reply_tokens = reply_tokens
        self._graphdef, self._params = nnx.split(model)
        self._reads_padding = model.config.compatibility.zero_padding
        self._turns = 0
        described = repr(model.config) + tokenizer.fingerprint
        self._fingerprint = hashlib.sha256(described.encode()).hexdigest()
        self._key, self._initial = _begin(self._graphdef, self._params, seed)
        self.memory: Array = self._initial
        self.previous_memory: Array = self._initial
        self.confidence: float | None = None
        """How sure the model was of its last streamed reply (`streaming.confidence`)."""

    @property
    def parameters(self) -> tuple[Any, Any]:
        """Give the model as functions take it: graph definition and parameters."""
        return self._graphdef, self._params

    def prepare(self) -> None:
        """Compile what a turn runs, its programs side by side, so that the first turn answers at once.

        Nothing is remembered, so this may run in a thread while the first query is being typed.
        """
        special = self.tokenizer.special
        prompt, rules = [special.bos, special.query, special.answer], self._rules(self._first(None))
        given = (self._graphdef, self._params, self.memory)
        prompts = [self._padded(prompt, width) for width in prompt_widths(self.max_length)]
        with ThreadPoolExecutor() as threads:
            # XLA compiles without holding Python's lock.
            others = [threads.submit(_prefill, *given, *row, rules, self.max_length) for row in prompts]
            writes = [self._padded(prompt, width) for width in self._write_widths()]
            others += [threads.submit(_write, *given, *row) for row in writes]
            one = jax.tree.leaves(self._params)[0]
            place = one.sharding if one.committed else None  # as the results of a real prefill would be
            shapes = _prefill.eval_shape(*given, *prompts[0], rules, self.max_length)
            like = jax.tree.map(
                lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), place), shapes._replace(rules=None)
            )
            like = like._replace(rules=jax.device_put(rules, place))
            list(stream_reply(self._graphdef, self._params, like, self.tokenizer, self.stream_tokens))
            for each in others:
                each.result()

    def reset(self) -> None:
        """Forget everything."""
        self.memory = self.previous_memory = self._initial

    def initialize(self, system_prompt: str, title: str = SYSTEM_TITLE) -> None:
        """Forget everything, then write a system prompt into memory. Source: docs/method.md §12.3."""
        self.reset()
        ids = system_prompt_ids(system_prompt, self.tokenizer.encode, self.tokenizer.special, title=title)
        if len(ids) > self.max_length:
            raise ValueError(f"the system prompt has {len(ids)} tokens, more than {self.max_length}. Shorten it.")
        self.memory = self._written(ids)

    def send(
        self,
        query: str | None = None,
        *,
        tool_result: str | None = None,
        mode: ThinkingMode | None = None,
        internal: str | None = None,
    ) -> Generator[Chunk, None, bool]:
        """Stream the reply to a query or to a tool's result; memory is written when it is complete.

        The write is dispatched behind the last piece of text and waited for by nobody. A reply that is
        not read to its end writes nothing. A prompt of `max_length` tokens or more is an error. The generator
        returns whether the reply ended by itself: False where it was cut because the interaction was full.
        """
        prompt = self.prompt(query, tool_result=tool_result, internal=internal)
        return self._stream(prompt, self._first(mode))

    def prompt(self, query: str | None, *, tool_result: str | None = None, internal: str | None = None) -> list[int]:
        """Write the prompt of a turn and check that an answer fits behind it."""
        prompt = turn_ids(query, tool_result, internal, self.tokenizer.encode, self.tokenizer.special)
        if len(prompt) + 2 > self.max_length:
            parts = math.ceil(2 * len(prompt) / self.max_length)  # each with as much room for its answer
            raise ValueError(
                f"that is {len(prompt)} tokens long, but one interaction holds {self.max_length} with its answer. "
                f"Send it in {parts} parts; nothing was written to memory."
            )
        return prompt

    def answer(self, query: str, **options: Any) -> str:
        """Return the whole answer of a turn, without thoughts and tool calls."""
        return "".join(chunk for chunk in self.send(query, **options) if chunk.block == "answer")

    def memory_change(self) -> MemoryChange:
        """Measure what memory holds and what the last interaction changed."""
        return measure_change(self.memory, self.previous_memory, self._initial)

    def export_memory(self, path: str | Path) -> None:
        """Write the memory to a file."""
        with as_path(path).open("wb") as file:
            np.savez(file, memory=np.asarray(self.memory), fingerprint=np.array(self._fingerprint))

    def import_memory(self, path: str | Path) -> None:
        """Take the memory from a file; one of another model or tokenizer is refused."""
        if not as_path(path).is_file():
            what = "is a folder" if as_path(path).is_dir() else "does not exist"
            raise FileNotFoundError(f"{path} {what}; export_memory (in a chat: /save FILE) writes a file")
        try:
            with local_copy(as_path(path)) as copy, np.load(copy) as stored:
                memory, fingerprint = stored["memory"], str(stored["fingerprint"])
        # A text is taken for a pickle, and a lone array is no archive of several.
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no memory file; export_memory (in a chat: /save FILE) writes one") from error
        if fingerprint != self._fingerprint:
            raise ValueError(f"{path} holds the memory of another model or tokenizer; load it with that one")
        shape, dtype = self._initial.shape, self._initial.dtype
        if (memory.shape, memory.dtype) != (shape, dtype) or not np.all(np.isfinite(memory)):
            raise ValueError(
                f"{path} is damaged: expected finite {dtype} of shape {shape}, got {memory.dtype} of shape "
                f"{memory.shape}. Nothing was loaded."
            )
        self.memory = self.previous_memory = jnp.asarray(memory)

    def _stream(self, prompt: list[int], first: tuple[int, ...]) -> Generator[Chunk, None, bool]:
        row, rules = self._padded(prompt, prompt_width(len(prompt), self.max_length)), self._rules(first)
        self._turns += 1
        generation = _prefill(self._graphdef, self._params, self.memory, *row, rules, self.max_length)
        made = yield from stream_reply(self._graphdef, self._params, generation, self.tokenizer, self.stream_tokens)
        self.confidence = made.confidence
        self.previous_memory = self.memory
        self.memory = self._written(prompt + made.ids)
        return self.tokenizer.special.eos in made.ids

    def _written(self, ids: list[int]) -> Array:
        """Write an interaction into memory, at the narrowest width that it fits into."""
        width = min(width for width in self._write_widths() if len(ids) <= width)
        return _write(self._graphdef, self._params, self.memory, *self._padded(ids, width))

    def _write_widths(self) -> tuple[int, ...]:
        # Where padding is read, its width matters.
        return (self.max_length,) if self._reads_padding else prompt_widths(self.max_length)

    def _first(self, mode: ThinkingMode | None) -> tuple[int, ...]:
        return first_tokens(mode or self.mode, self.tokenizer.special)

    def _rules(self, first: tuple[int, ...]) -> Rules:
        """Make the rules of the next turn, one row; its key is the session's, folded with the number of the turn."""
        key = jax.random.fold_in(self._key, 1 + self._turns)
        return make_rules(1, key, sampling=self.sampling, limit=self.reply_tokens, first=first)

    def _padded(self, ids: list[int], width: int) -> tuple[Array, Array]:
        row = np.full((1, width), self.tokenizer.special.pad, np.int32)
        row[0, : len(ids)] = ids
        return jnp.asarray(row), jnp.asarray(np.arange(width)[None] < len(ids))


def answer_together(
    sessions: Sequence[ChatSession], queries: Sequence[str], *, mode: ThinkingMode | None = None
) -> list[list[Chunk]]:
    """Answer one query in each of several sessions of one model, in one program; every session keeps its memory.

    Sessions must share model and `max_length`; sampling, mode, limit and key of a reply are those of its own session,
    so it is the one that the session would give alone.
    """
    if len(sessions) != len(queries) or not sessions:
        raise ValueError(f"every session needs one query, got {len(sessions)} sessions and {len(queries)} queries")
    leader = sessions[0]
    if any(each._fingerprint != leader._fingerprint or each.max_length != leader.max_length for each in sessions):
        raise ValueError("sessions of different models or lengths cannot share a batch")
    prompts = [session.prompt(query) for session, query in zip(sessions, queries, strict=True)]
    width = prompt_width(max(map(len, prompts)), leader.max_length)
    rows = [session._padded(prompt, width) for session, prompt in zip(sessions, prompts, strict=True)]
    ids, mask = (jnp.concatenate(part) for part in zip(*rows, strict=True))
    memory = jnp.concatenate([session.memory for session in sessions], axis=1)
    rules = join_rules([session._rules(session._first(mode)) for session in sessions])
    settings = (leader.tokenizer.special, leader.max_length)
    answered = _interact(leader._graphdef, leader._params, memory, ids, mask, rules, *settings)
    made, reply_mask = jax.device_get((answered.ids, answered.reply_mask))
    replies = []
    for row, session in enumerate(sessions):
        session._turns += 1
        session.previous_memory, session.memory = session.memory, answered.memory[:, row : row + 1]
        text = ReplyText(session.tokenizer)
        replies.append([*text.push(made[row][reply_mask[row]].tolist()), *text.close()])
    return replies


@functools.partial(jax.jit, static_argnums=(0, 2))
def _begin(graphdef: Any, params: Any, seed: int) -> tuple[Key, Array]:
    """Make the key of a conversation and the memory before it, in one program."""
    key = jax.random.key(seed)
    return key, beginning_memory(nnx.merge(graphdef, params), 1, key)


@functools.partial(jax.jit, static_argnums=(0, 6))
def _prefill(
    graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array, rules: Rules, width: int
) -> Generation:
    return prefill(nnx.merge(graphdef, params), memory, ids, mask, rules, width)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _interact(
    graphdef: Any,
    params: Any,
    memory: Array,
    ids: Array,
    mask: Array,
    rules: Rules,
    special: SpecialTokens,
    width: int,
) -> Answered:
    model = nnx.merge(graphdef, params)
    return interact(model, memory, ids, mask, rules, width=width, end_id=special.eos, pad_id=special.pad)


@functools.partial(jax.jit, static_argnums=0)
def _write(graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array) -> Array:
    model = nnx.merge(graphdef, params)
    return model.update_memory(memory, model.encode(ids, mask), mask)
