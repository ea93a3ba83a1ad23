"""Text of a reply while it is made: blocks, pieces, and one look at the device per few tokens."""

import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from rxt_jax.data.tokenizer import StreamDecoder, Tokenizer
from rxt_jax.model.generation import Generated, Generation, extend

__all__ = ["Answer", "Block", "Chunk", "ReplyText", "answer_of", "answer_text", "confidence", "stream_reply"]

Block = Literal["think", "answer", "tool_call"]


class Chunk(str):
    """A piece of streamed text that knows the block it belongs to."""

    __slots__ = ("block",)

    block: Block

    def __new__(cls, text: str, block: Block) -> "Chunk":
        """Make a string with a block."""
        chunk = super().__new__(cls, text)
        chunk.block = block
        return chunk

    def __getnewargs__(self) -> tuple[str, Block]:
        return str(self), self.block  # for copy and pickle


class Answer(str):
    """An answer that knows how sure the model was of it.

    `confidence`: see the function of that name.
    """

    __slots__ = ("confidence",)

    confidence: float

    def __new__(cls, text: str, confidence: float) -> "Answer":
        """Make a string with its confidence."""
        answer = super().__new__(cls, text)
        answer.confidence = confidence
        return answer

    def __getnewargs__(self) -> tuple[str, float]:
        return str(self), self.confidence  # for copy and pickle


class ReplyText:
    """Turn the ids of a reply into chunks of text, block by block."""

    def __init__(self, tokenizer: Tokenizer):
        special = tokenizer.special
        names = {special.think: "think", special.answer: "answer", special.tool_call: "tool_call"}
        self._names = {identity: name for identity, name in names.items() if identity in special.names}
        self._tokenizer, self._end = tokenizer, special.eos
        self._block: Any = "answer"
        self._decoder = StreamDecoder(tokenizer)

    def push(self, ids: list[int]) -> Iterator[Chunk]:
        """Give the text that these ids complete."""
        text = ""
        for identity in ids:
            if identity in self._names or identity == self._end:
                if text := text + self._decoder.close():
                    yield Chunk(text, self._block)
                text, self._block = "", self._names.get(identity, self._block)
                self._decoder = StreamDecoder(self._tokenizer)
            else:
                text += self._decoder.push(identity)
        if text:
            yield Chunk(text, self._block)

    def close(self) -> Iterator[Chunk]:
        """Give what was held back."""
        if rest := self._decoder.close():
            yield Chunk(rest, self._block)


def answer_text(ids: list[int], tokenizer: Tokenizer) -> str:
    """Return the answer of a whole reply, without thoughts and tool calls."""
    text = ReplyText(tokenizer)
    return "".join(chunk for chunk in [*text.push(ids), *text.close()] if chunk.block == "answer").strip()


class Streamed(NamedTuple):
    """Where the generation of a reply of one row stands, the ids made, and how sure the model was of them."""

    generation: Generation
    ids: list[int]
    confidence: float


def answer_of(ids: np.ndarray, raw_log_probs: np.ndarray, tokenizer: Tokenizer) -> Answer:
    """Return the answer of a whole reply `[T]` with its confidence."""
    return Answer(answer_text(ids.tolist(), tokenizer), confidence(raw_log_probs))


def confidence(raw_log_probs: Sequence[float] | np.ndarray) -> float:
    """Say how sure a model was of a reply: the geometric mean of the probabilities of its tokens, in (0, 1].

    The first token, which names the block, does not count. How well this tells right answers from wrong ones:
    benchmarks/confidence.md.
    """
    drawn = raw_log_probs[1:]
    return float(np.exp(np.mean(drawn))) if len(drawn) else 1.0


def stream_reply(
    graphdef: Any,
    params: Any,
    generation: Generation,
    tokenizer: Tokenizer,
    stream_tokens: int,
) -> Generator[Chunk, None, Streamed]:
    """Yield the text of a reply of one row; return what was made.

    The host looks at the device after every token until there is text, then once per `stream_tokens` tokens. The cache
    of the generation that goes in is used up.
    """
    special = tokenizer.special
    made: list[int] = []
    log_probs: list[float] = []
    text, going, most = ReplyText(tokenizer), True, np.int32(1)
    while going:
        rest = generation._replace(cache=None)
        settings = (stream_tokens, special.eos, special.pad)
        generation, new = _extend(graphdef, params, generation.cache, rest, most, *settings)
        looked_at = (new.ids, new.mask, new.raw_log_probs, generation.active)
        (ids,), (mask,), (raw,), (active,) = jax.device_get(looked_at)
        going = bool(active)
        made += ids[mask].tolist()
        log_probs += raw[mask].tolist()
        for chunk in text.push(ids[mask].tolist()):
            most = np.int32(stream_tokens)
            yield chunk
    yield from text.close()
    return Streamed(generation, made, confidence(log_probs))


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7), donate_argnums=2)
def _extend(
    graphdef: Any, params: Any, cache: Any, rest: Generation, most: Any, count: int, end_id: int, pad_id: int
) -> tuple[Generation, Generated]:
    # Only the cache is given up: the rules may be the caller's own arrays.
    generation = rest._replace(cache=cache)
    return extend(nnx.merge(graphdef, params), generation, count, end_id=end_id, pad_id=pad_id, most=most)
