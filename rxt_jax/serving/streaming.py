"""Text of a reply while it is made: blocks, pieces, and one look at the device per few tokens."""

import functools
from collections.abc import Generator, Iterator
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from rxt_jax.data.tokenizer import StreamDecoder, Tokenizer
from rxt_jax.model.generation import Generated, Generation, extend

__all__ = ["Block", "Chunk", "ReplyText", "answer_text", "stream_reply"]

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


def stream_reply(
    graphdef: Any,
    params: Any,
    generation: Generation,
    tokenizer: Tokenizer,
    stream_tokens: int,
) -> Generator[Chunk, None, tuple[Generation, list[int]]]:
    """Yield the text of a reply of one row; return where the generation stands and the ids made.

    The host looks at the device after every token until there is text, then once per `stream_tokens` tokens. The cache
    of the generation that goes in is used up.
    """
    special = tokenizer.special
    made: list[int] = []
    text, going, most = ReplyText(tokenizer), True, np.int32(1)
    while going:
        rest = generation._replace(cache=None)
        settings = (stream_tokens, special.eos, special.pad)
        generation, new = _extend(graphdef, params, generation.cache, rest, most, *settings)
        (ids,), (mask,), (active,) = jax.device_get((new.ids, new.mask, generation.active))
        going = bool(active)
        made += ids[mask].tolist()
        for chunk in text.push(ids[mask].tolist()):
            most = np.int32(stream_tokens)
            yield chunk
    yield from text.close()
    return generation, made


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7), donate_argnums=2)
def _extend(
    graphdef: Any, params: Any, cache: Any, rest: Generation, most: Any, count: int, end_id: int, pad_id: int
) -> tuple[Generation, Generated]:
    # Only the cache is given up: the rules may be the caller's own arrays.
    generation = rest._replace(cache=cache)
    return extend(nnx.merge(graphdef, params), generation, count, end_id=end_id, pad_id=pad_id, most=most)
