"""What a turn reads: rows that are written into memory first, the prompt, and what memory then holds."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from rxt_jax.data.template import interaction_parts, prompt_ids, system_prompt_ids
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.server.errors import ApiError, unsupported
from rxt_jax.server.memory_files import DamagedMemoryError
from rxt_jax.server.spoken import Spoken, canonical

__all__ = ["MemoryState", "TurnRows", "turn_rows"]

_TOOL_TITLE = "TOOL"


@dataclass(frozen=True, kw_only=True)
class MemoryState:
    """What is known of a memory besides its values."""

    tokens: int = 0
    """Of all its interactions: what a stateless model would read again."""
    instructions: str = ""
    """Digest of the instructions that were written into it; empty: none were."""
    tools: str = ""
    calls: dict[str, str] = field(default_factory=dict)
    """Tool calls that wait for their results: id → name."""

    def to_json(self) -> dict[str, Any]:
        """Write it as an object of JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Any, source: str) -> "MemoryState":
        """Read what `to_json` wrote, perhaps elsewhere; anything else is a `DamagedMemoryError`."""
        kinds = {"tokens": int, "instructions": str, "tools": str, "calls": dict}
        right = isinstance(state, dict) and state.keys() == kinds.keys()
        if not right or not all(type(state[name]) is kind for name, kind in kinds.items()):
            raise DamagedMemoryError(f"{source} does not say what it holds")
        return cls(**state)


class TurnRows(NamedTuple):
    """Ids that a turn reads, and the state of the memory once they are written (its reply not counted)."""

    preface: tuple[tuple[int, ...], ...]
    prompt: tuple[int, ...]
    state: MemoryState

    @property
    def read_tokens(self) -> int:
        """How many tokens the model reads in this turn."""
        return sum(map(len, self.preface)) + len(self.prompt)


def turn_rows(
    spoken: Spoken,
    tools: Sequence[dict[str, Any]],
    state: MemoryState,
    *,
    is_new: bool,
    tokenizer: Tokenizer,
    max_length: int,
    place: str,
) -> TurnRows:
    """Write what was said as rows of ids, given what memory holds already.

    Instructions and tools are written once and persist: whoever sends them again with every turn changes nothing.
    Into a new memory they go before everything else; other instructions in a later turn stand inside its interaction.
    """
    rows, open_ = [], dict(spoken.open_)
    encode, special = tokenizer.encode, tokenizer.special

    def add(ids: list[int], what: str, param: str) -> None:
        if len(ids) > max_length:
            raise _too_long(what, len(ids), max_length, param)
        rows.append(tuple(ids))

    try:
        if spoken.system and (digest := _digest(spoken.system)) != state.instructions:
            state = replace(state, instructions=digest)
            if is_new:
                add(system_prompt_ids(spoken.system, encode, special), "the instructions", "instructions")
            else:
                open_["internal"] = "\n".join(part for part in (spoken.system, open_.get("internal")) if part)
        if tools and (digest := _digest(canonical(tools))) != state.tools:
            state = replace(state, tools=digest)
            for number, tool in enumerate(tools):
                about = {name: tool[name] for name in ("name", "description", "parameters") if tool[name] is not None}
                ids = system_prompt_ids(canonical(about), encode, special, title=_TOOL_TITLE)
                add(ids, f"tool {tool['name']!r}", f"tools[{number}]")
        for number, interaction in enumerate(spoken.closed):
            prompt, reply = interaction_parts(interaction, encode, special)
            add([*prompt, *reply], f"interaction {number} of the history", place)
        prompt = prompt_ids(open_, encode, special)
    except ValueError as error:  # a control token that this tokenizer does not have
        raise unsupported(place, str(error)) from error
    if len(prompt) + 2 > max_length:
        raise _too_long("the input", len(prompt), max_length, place)
    return TurnRows(tuple(rows), tuple(prompt), state)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _too_long(what: str, length: int, most: int, param: str) -> ApiError:
    message = (
        f"{what} is {length} tokens long, but one interaction holds {most} with its answer. Send it in parts, one turn "
        f"each: memory keeps them together. Nothing was written."
    )
    return ApiError(400, message, param=param, code="context_length_exceeded")
