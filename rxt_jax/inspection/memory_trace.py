"""A conversation with everything that memory did in it: writes, reads, and what every slot was worth.

turn i: memory i ──▶ answer (who reads what) ──▶ write (which gate, which tokens) ──▶ memory i + 1
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig
from rxt_jax.data.rows import Row
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.inspection.experiments import Effects, measure_effects
from rxt_jax.inspection.walker import Walker, has_output
from rxt_jax.losses.token_log_probs import next_token_log_probs
from rxt_jax.serving.memory_change import MemoryChange, measure_change
from rxt_jax.serving.streaming import answer_text
from rxt_jax.types import Array

__all__ = ["MemoryTrace", "ReadOut", "TracedTurn", "trace_conversation"]

_READ_OUT = 5  # tokens that a slot's read-out names


class ReadOut(NamedTuple):
    """Heuristic: the tokens that a slot speaks for most, likeliest first, through the decoder's value path and head.

    `ids` and `gains` `[L S 5]`; a gain is the token's logit less that which the slot gave before the conversation.
    Layers behind the reading one are left out, so the numbers are hints; what a slot is worth, `Effects` measure.
    """

    ids: np.ndarray
    gains: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TracedTurn:
    """One interaction of A scored answer tokens, in a row of T tokens.

    query, answer: their text; `own_answer` says that the model made the answer itself.
    tokens: the text of every token of the row; `answer_places` are the places of the scored ones: the answer behind
        its first control token, which says what kind of block follows, the end included.
    log_probs: of the scored tokens, `[A]`, as the model gave them before it wrote the turn.
    reading: weights with which a scored token was read out of the slots, `[A L S]`, the mean over heads.
    gate: how far the gate of every slot opened when the turn was written, `[L S]`, the mean over channels; below 0
        where a gate keeps more than it takes. None where the model has no gate.
    writing: weights with which every slot read the row's tokens when it was written, `[L S T]`.
    change: what the write did to memory, in the numbers of `/memory` in a chat.
    read_out: what the slots speak for after the write.
    effects: what the answer loses, by experiment; empty where nothing was answered or nothing was asked for.
    """

    query: str
    answer: str
    own_answer: bool
    tokens: tuple[str, ...]
    answer_places: tuple[int, ...]
    log_probs: np.ndarray
    reading: np.ndarray
    gate: np.ndarray | None
    writing: np.ndarray
    change: MemoryChange
    read_out: ReadOut
    effects: Mapping[str, Effects]

    @property
    def log_prob(self) -> float:
        """The log-probability of the whole answer, in nats."""
        return float(self.log_probs.sum())


@dataclass(frozen=True, kw_only=True)
class MemoryTrace:
    """What memory did in a conversation of I interactions. In a notebook it shows itself as a page.

    memories: before the first interaction and after every one, `[I+1 L S D]` float32.
    pieces: the text of every token id that a read-out names.
    """

    name: str
    turns: tuple[TracedTurn, ...]
    memories: np.ndarray
    pieces: Mapping[int, str]

    def similarity(self) -> np.ndarray:
        """Give the cosine of every slot with itself at other times, `[L S I+1 I+1]`."""
        length = np.maximum(np.linalg.norm(self.memories, axis=-1, keepdims=True), 1e-9)
        directions = self.memories / length
        return np.einsum("ilsd,jlsd->lsij", directions, directions)

    def html(self) -> str:
        """Write the page: one file without any request, under 2 MB."""
        from rxt_jax.inspection.memory_page import memory_page

        return memory_page(self)

    def _repr_html_(self) -> str:
        from rxt_jax.pages import frame

        return frame(self.html())


def trace_conversation(
    model: Any,
    tokenizer: Tokenizer,
    episode: Mapping[str, Any],
    data: DataConfig,
    *,
    other: Mapping[str, Any] | None = None,
    experiments: tuple[str, ...] = ("erase", "freeze", "swap"),
    name: str = "conversation",
    tokens_per_call: int = 8192,
) -> MemoryTrace:
    """Walk an episode (`docs/data.md`) and keep what memory does; no number of the model changes by that.

    Where an interaction has no output, the model answers itself, greedily, as in a chat, and remembers what it said.
    data: how rows are made. `other` is the conversation whose memory is swapped in, walked as long as it lasts;
    without one `swap` is left out. A `ValueError` says which interaction leaves no room for an answer.
    """
    walker = Walker(model, tokenizer, data)
    swapped = None if other is None else walker.memories_of(other)
    turns, memories, memory = [], [], walker.start
    for number, (interaction, row) in enumerate(walker.rows(episode)):
        memories.append(memory)
        row = walker.answered(interaction, memory, number) if row is None else row
        ids, mask, scored = walker.arrays(row)
        seen = jax.device_get(_watch(walker.graphdef, walker.params, memory, walker.start, ids, mask, scored))
        places = np.flatnonzero(np.asarray(scored[0]))
        effects: dict[str, Effects] = {}
        if len(places):
            other_memory = None if swapped is None else swapped[min(number, len(swapped) - 1)]
            sources = {"erase": jnp.zeros_like(memory), "freeze": memories[min(number, 1)], "swap": other_memory}
            for kind in experiments:
                if kind not in sources:
                    raise ValueError(f"experiments must be among {', '.join(sources)}, got {kind!r}.")
                if sources[kind] is not None:
                    given = (walker.graphdef, walker.params, memory, sources[kind], ids, mask, scored)
                    effects[kind] = measure_effects(*given, tokens_per_call=tokens_per_call)
        length = len(row.ids)
        turns.append(
            TracedTurn(
                query=str(interaction.get("query") or interaction.get("tool_use") or interaction.get("system") or ""),
                answer=_answer_of(interaction, row, tokenizer),
                own_answer=not has_output(interaction),
                tokens=tuple(_piece(identity, tokenizer) for identity in row.ids),
                answer_places=tuple(int(place) for place in places),
                log_probs=seen.log_probs[0, places],
                reading=np.moveaxis(seen.reading[:, 0, places - 1], 1, 0),
                gate=None if seen.gate is None else seen.gate[:, 0],
                writing=seen.writing[:, 0, :, :length],
                change=measure_change(seen.written, memory, walker.start),
                read_out=ReadOut(seen.read_out_ids, seen.read_out_gains),
                effects=effects,
            )
        )
        memory = jnp.asarray(seen.written)
    stacked = np.stack([np.asarray(each)[:, 0] for each in (*memories, memory)])
    named = {int(identity) for turn in turns for identity in turn.read_out.ids.flat}
    pieces = {identity: _piece(identity, tokenizer) for identity in sorted(named)}
    return MemoryTrace(name=name, turns=tuple(turns), memories=stacked, pieces=pieces)


class _Seen(NamedTuple):
    log_probs: Array  # [1 T]
    reading: Array  # [L 1 T S]
    gate: Array | None  # [L 1 S]
    writing: Array  # [L 1 S T]
    written: Array  # [L 1 S D]
    read_out_ids: Array  # [L S 5]
    read_out_gains: Array


@functools.partial(jax.jit, static_argnums=0)
def _watch(graphdef: Any, params: Any, memory: Array, start: Array, ids: Array, mask: Array, scored: Array) -> _Seen:
    model = nnx.merge(graphdef, params)
    hidden, reading = model.watch_reading(ids, mask, memory)
    log_probs = next_token_log_probs(model.logits, hidden, ids, scored).log_probs
    encoded = model.encode(ids, mask)
    write = model.watch_writing(memory, encoded, mask)
    written = model.update_memory(memory, encoded, mask)
    gains, tokens = jax.lax.top_k((model.slot_logits(written) - model.slot_logits(start))[:, 0], _READ_OUT)
    return _Seen(log_probs, reading, write.gate, write.weights, written, tokens, gains)


def _answer_of(interaction: Mapping[str, Any], row: Row, tokenizer: Tokenizer) -> str:
    if has_output(interaction):
        return str(interaction.get("answer") or interaction.get("tool_call") or "")
    return answer_text(row.ids[row.prompt_length :], tokenizer)


def _piece(identity: int, tokenizer: Tokenizer) -> str:
    names = tokenizer.special.names
    if identity in names:
        return f"[{names[identity]}]"
    return tokenizer.token_bytes[identity].decode("utf-8", "replace")
