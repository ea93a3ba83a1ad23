"""How a conversation is written down: labels, lines, facts and memory as plain text."""

import re
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np

from rxt_jax.cli.facts import Known
from rxt_jax.serving import Chunk, MemoryChange

__all__ = ["USER", "Reply", "change_text", "facts_text", "laid_out", "memory_text", "printable"]

USER = "you    "
_LABELS = {"answer": "model  ", "think": "think  ", "tool_call": "tool   "}
_INDENT = " " * len(USER)
_BARS = " ▁▂▃▄▅▆▇█"
_BARS_PER_LINE = 64
_MOST_BARS = 256


class Reply:
    """The chunks of a reply, and, when they have been read, whether it ended by itself (`complete`)."""

    def __init__(self, chunks: Generator[Chunk, None, bool]):
        self._chunks = chunks
        self.complete = False

    def __iter__(self) -> Iterator[Chunk]:
        self.complete = yield from self._chunks


def laid_out(chunks: Iterable[Chunk]) -> Iterator[tuple[str, str]]:
    """Give block and text of what to print: every block begins a line with its label, further lines are indented,
    blank lines and control characters are left out. The last line is not ended."""
    block, line_ended = "", False
    for chunk in chunks:
        if chunk.block != block:
            yield chunk.block, ("\n" if block else "") + _LABELS[chunk.block]
            block, line_begun, line_ended = chunk.block, False, False
        for number, part in enumerate(re.split(r"[\r\n]+", chunk)):
            line_ended |= number > 0 and line_begun
            text = printable(part) if line_begun and not line_ended else printable(part).lstrip()
            if text:
                yield block, ("\n" + _INDENT if line_ended else "") + text
                line_begun, line_ended = True, False


def printable(text: str) -> str:
    """Leave out what a terminal would obey instead of showing; a tab becomes a space."""
    return "".join(each for each in text.replace("\t", " ") if unicodedata.category(each) not in ("Cc", "Cs"))


def facts_text(known: Known) -> str:
    """Write a question and its answer per line, and what was left out."""
    facts, unsure = known
    left_out = f"left out: {unsure} answer{'s' if unsure > 1 else ''} that it is not sure of" if unsure else ""
    if not facts:
        nothing = "the model knows nothing for sure of what it was asked; tell it something, then try again"
        return f"{nothing}\n{left_out}" if unsure else nothing
    width = max(len(fact.question) for fact in facts)
    lines = [f"  {fact.question:{width}}  {printable(' '.join(fact.answer.split()))}" for fact in facts]
    return "\n".join(["what the model says it knows (it may be wrong):", *lines, *([left_out] if unsure else [])])


def memory_text(change: MemoryChange) -> str:
    """Write, layer by layer, how much of memory the last turn changed, how full it is, and how different slots are."""
    away = np.mean(change.distance, axis=1) / np.maximum(np.mean(change.level, axis=1), 1e-9)
    notes = [
        f", {_percent(far)} away from empty, slots {_percent(alike)} alike"
        for far, alike in zip(away, change.likeness, strict=True)
    ]
    return change_text(change.change / np.maximum(change.level, 1e-9), notes)


def change_text(shares: np.ndarray, notes: Sequence[str] | None = None) -> str:
    """Write which share of every slot `[L S]` the last turn changed; `notes` are what else is known of every layer."""
    layers, slots = shares.shape
    largest = float(shares.max())
    lines = [f"memory: {layers} layers of {slots} slots"]
    if largest == 0:
        lines[0] += "; nothing was written since it began or was loaded"
    else:
        lines.append(f"a bar per slot: how much of it the last turn changed, the tallest {_percent(largest)}")
    for layer in range(layers):
        lines.append(f"layer {layer}  changed by {_percent(np.mean(shares[layer]))}{notes[layer] if notes else ''}")
        if largest > 0:
            lines += [f"  {row}" for row in _bars(shares[layer] / largest)]
            most = np.argsort(-shares[layer])[:3]
            lines.append("  most in " + ", ".join(f"slot {slot} ({_percent(shares[layer][slot])})" for slot in most))
    return "\n".join(lines)


def _bars(heights: np.ndarray) -> list[str]:
    """Draw heights from 0 to 1; neighbours share a bar, the tallest of them, where there are too many."""
    together = -(-len(heights) // _MOST_BARS)
    padded = np.pad(heights, (0, -len(heights) % together))
    text = "".join(_BARS[round(float(height) * (len(_BARS) - 1))] for height in padded.reshape(-1, together).max(1))
    return [text[start : start + _BARS_PER_LINE] for start in range(0, len(text), _BARS_PER_LINE)]


def _percent(share: float | np.floating) -> str:
    return f"{100 * float(share):.0f} %"
