"""The page of a trace: turns on the left, a map of all slots on the right, and what one slot holds below."""

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rxt_jax.inspection.memory_trace import MemoryTrace, TracedTurn
from rxt_jax.pages import embed_json, write_page
from rxt_jax.pages.shell import MOST_BYTES

__all__ = ["memory_page", "page_data"]

_SCRIPT = (Path(__file__).parent / "memory_page.js").read_text(encoding="utf-8")

# What a page does without, first that which takes most and says least, until it is small enough.
_DETAILS = (
    ("writing", "which tokens a slot read when it was written"),
    ("similarity", "the similarity of slots across turns"),
    ("reading", "how much single tokens read a slot"),
    ("read_out", "what slots speak for"),
)

_HELP = """
<p>Choose a turn and what the map shows. In the map the arrow keys move from slot to slot. Colours reach from nothing
to the largest number of the map, which stands beside its name; red slots are those that the answer loses by.</p>
<details><summary>What the numbers are</summary>
<p><b>Erase, freeze, swap</b> are measured: the slot alone is set to zero, to what it held after the first interaction,
or to what it holds in another conversation at this turn. The number is the change of the answer's log-probability in
nats. Only what the answer reads is changed, not what is written later.</p>
<p><b>Read by the answer</b>: attention weights of the answer's tokens, mean over heads. A high weight does not mean
that the answer needs the slot. <b>Gate</b> and <b>change</b> belong to the write that follows the answer.</p>
<p><b>Speaks for</b> is a heuristic: the slot's value alone, sent through the decoder's head, less what it gave before
the conversation. Trust the measured numbers.</p></details>
"""


def memory_page(trace: MemoryTrace) -> str:
    """Write the page, at most 2 MB of it; what had to be left out for that is said on it."""
    left_out: list[str] = []
    remaining = list(_DETAILS)
    while True:
        page = _page(trace, [name for name, _ in remaining], left_out)
        if len(page.encode()) <= MOST_BYTES:
            return page
        if not remaining:
            raise ValueError(
                f"a trace of {len(trace.turns)} turns and {trace.memories[0].size // trace.memories.shape[-1]} slots "
                f"does not fit a page of {MOST_BYTES} bytes. Trace fewer turns."
            )
        left_out.append(remaining.pop(0)[1])


def page_data(trace: MemoryTrace, details: list[str]) -> dict[str, Any]:
    """Give the numbers of a page as JSON values; `details` names the large parts that are wanted."""
    _, layers, slots, _ = trace.memories.shape
    data: dict[str, Any] = {
        "layers": layers,
        "slots": slots,
        "turns": [_turn_data(turn, details) for turn in trace.turns],
        "pieces": {str(identity): text for identity, text in trace.pieces.items()},
    }
    if "similarity" in details:
        data["similarity"] = _packed((trace.similarity() + 1) / 2)
    return data


def _turn_data(turn: TracedTurn, details: list[str]) -> dict[str, Any]:
    change = turn.change
    data: dict[str, Any] = {
        "tokens": turn.tokens,
        "places": turn.answer_places,
        "logProbs": _rounded(turn.log_probs),
        "maps": {
            **{kind: _rounded(effects.slots) for kind, effects in turn.effects.items()},
            "change": _rounded(change.change / np.maximum(change.level, 1e-9)),
            "distance": _rounded(change.distance / np.maximum(change.level, 1e-9)),
        },
        "layerEffects": {kind: _rounded(effects.layers) for kind, effects in turn.effects.items()},
        "everything": {kind: _rounded(effects.everything) for kind, effects in turn.effects.items()},
    }
    if turn.gate is not None:
        data["maps"]["gate"] = _rounded(turn.gate)
    if len(turn.answer_places):
        data["maps"]["read"] = _rounded(turn.reading.mean(axis=0))
    for name, array in (("reading", turn.reading), ("writing", turn.writing)):
        if name in details and array.size:
            data[name] = _packed(array)
    if "read_out" in details:
        data["readOut"] = turn.read_out.ids.tolist()
        data["gains"] = np.round(turn.read_out.gains.astype(float), 1).tolist()
    return data


def _page(trace: MemoryTrace, details: list[str], left_out: list[str]) -> str:
    missing = f'<p class="faint">Left out, to stay small: {escape("; ".join(left_out))}.</p>' if left_out else ""
    turns = "".join(_turn_line(number, turn) for number, turn in enumerate(trace.turns))
    body = (
        f'{_HELP}{missing}<div class="columns"><section aria-label="Turns"><ol class="turns">{turns}</ol></section>'
        f'<section aria-label="Memory" id="memory"><noscript>{_table(trace)}</noscript></section></div>'
        f"{embed_json('trace', page_data(trace, details))}"
    )
    return write_page(f"Memory of {trace.name}", body, script=_SCRIPT)


def _turn_line(number: int, turn: TracedTurn) -> str:
    by = "" if turn.own_answer or not turn.answer else ' <small class="faint">(given)</small>'
    checked = " checked" if number == 0 else ""
    return (
        f'<li><label><input type="radio" name="turn" value="{number}"{checked}>'
        f"<span>{number + 1}. {escape(turn.query)}<em>{escape(turn.answer)}{by}</em></span></label></li>"
    )


def _table(trace: MemoryTrace) -> str:
    """List, for readers without scripts, what every answer lost most by."""
    rows = []
    for number, turn in enumerate(trace.turns, 1):
        for kind, effects in turn.effects.items():
            layer, slot = np.unravel_index(np.argmin(effects.slots), effects.slots.shape)
            cells = (kind, f"layer {layer}, slot {slot}", f"{effects.slots.min():.3f}", f"{effects.everything:.3f}")
            rows.append(f"<tr><td>{number}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "<tr><th>turn<th>experiment<th>loses most by<th>nats<th>all slots</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _packed(array: np.ndarray) -> str:
    """Write numbers from 0 to 1 as one byte each, in 255ths."""
    return base64.b64encode(np.round(255 * np.clip(array, 0, 1)).astype(np.uint8).tobytes()).decode("ascii")


def _rounded(values: Any) -> Any:
    """Keep four digits behind the point."""
    return np.round(np.asarray(values, np.float64), 4).tolist()
