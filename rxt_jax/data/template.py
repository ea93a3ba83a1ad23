"""The interaction template: which control tokens stand where, and which tokens are targets.

    [BOS] ([I] internal)? ([U] tool_use | [Q] query)?  |  ([T] think)? ([A] answer)? ([C] tool_call)? [EOS]
                       prompt part                     |                  answer part

A block is written if its field holds text. Every token of the answer part is a target.
Source: docs/method.md, eq. 57 and 58.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from rxt_jax.data.special_tokens import ABSENT, CONTROL_PIECES, SpecialTokens

__all__ = [
    "INPUT_BLOCKS",
    "OUTPUT_BLOCKS",
    "SYSTEM_TITLE",
    "Block",
    "Encode",
    "Mode",
    "ThinkingMode",
    "answer_ids",
    "first_tokens",
    "interaction_mode",
    "interaction_parts",
    "join_blocks",
    "label_mask",
    "parse_interaction",
    "prompt_blocks",
    "prompt_ids",
    "reading_control_tokens",
    "system_prompt_ids",
    "turn_ids",
]

Encode = Callable[[str], list[int]]
Mode = Literal["fast", "thinking", "tool_result", "direct_call", "chained_call"]
"""A question answered at once or after a thought, a tool's result answered, a call without an answer that
follows a question, one that follows a result."""
ThinkingMode = Literal["fast", "extended", "auto"]
"""The first token of a reply: answer, thought, or the likelier of the two, chosen once."""

INPUT_BLOCKS = ("internal", "tool_use", "query")
OUTPUT_BLOCKS = ("think", "answer", "tool_call")
SYSTEM_TITLE = "SYSTEM INSTRUCTIONS"


class Block(NamedTuple):
    """A field as it stands in a row: `[Q]`, say, and the ids behind it."""

    control: int
    ids: list[int]


def prompt_blocks(interaction: Mapping[str, Any], encode: Encode, special: SpecialTokens) -> list[Block]:
    """Write the blocks of the prompt part. The result of a tool comes before a question, which is then left out."""
    names = ("internal", "tool_use" if interaction.get("tool_use") else "query")
    return [Block(special.require(name), encode(interaction[name])) for name in names if interaction.get(name)]


def prompt_ids(interaction: Mapping[str, Any], encode: Encode, special: SpecialTokens) -> list[int]:
    """Write the prompt part."""
    return [special.bos, *join_blocks(prompt_blocks(interaction, encode, special))]


def turn_ids(
    query: str | None, tool_result: str | None, internal: str | None, encode: Encode, special: SpecialTokens
) -> list[int]:
    """Write the prompt of a turn: of a query, or of a tool's result."""
    for name, text in (("query", query), ("tool_result", tool_result), ("internal", internal)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name} must be a text, got {text!r}.")
    if bool(query) == bool(tool_result):
        got = "both" if query else "neither, or an empty text"
        raise ValueError(f"a turn is a query or the result of a tool, one of them; got {got}.")
    return prompt_ids({"query": query, "tool_use": tool_result, "internal": internal}, encode, special)


def answer_ids(output: Mapping[str, Any], encode: Encode, special: SpecialTokens) -> list[int]:
    """Write the answer part of an interaction, or of one alternative of a preference."""
    blocks = [Block(special.require(name), encode(output[name])) for name in OUTPUT_BLOCKS if output.get(name)]
    return [*join_blocks(blocks), special.eos]


def first_tokens(mode: ThinkingMode, special: SpecialTokens) -> tuple[int, ...]:
    """List the ids among which a reply's first token is chosen."""
    if mode not in get_args(ThinkingMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(ThinkingMode))}, got {mode!r}.")
    if mode == "fast":
        return (special.answer,)
    think = special.require("think")
    return (think,) if mode == "extended" else (special.answer, think)


def interaction_parts(
    interaction: Mapping[str, Any], encode: Encode, special: SpecialTokens
) -> tuple[list[int], list[int]]:
    """Write the prompt part and the answer part."""
    return prompt_ids(interaction, encode, special), answer_ids(interaction, encode, special)


def system_prompt_ids(
    system: str, encode: Encode, special: SpecialTokens, *, title: str = SYSTEM_TITLE, as_question: bool = False
) -> list[int]:
    """Write a system prompt: it enters memory before the first interaction and is never a target.

    `[BOS][I]title⏎⏎system[EOS]`, or `[BOS][Q]title[A]system[EOS]` for models without the token `[I]`.
    """
    if as_question:
        return [special.bos, special.query, *encode(title), special.answer, *encode(system), special.eos]
    return [special.bos, special.require("internal"), *encode(f"{title}\n\n{system}"), special.eos]


def interaction_mode(interaction: Mapping[str, Any]) -> Mode:
    """Tell in which mode an interaction (or a row parsed back) is."""
    if interaction.get("tool_use"):
        return "tool_result" if interaction.get("answer") else "chained_call"
    if not interaction.get("answer") and interaction.get("tool_call"):
        return "direct_call"
    return "thinking" if interaction.get("think") else "fast"


def label_mask(
    ids: Sequence[int],
    special: SpecialTokens,
    *,
    outputs: Sequence[str] = OUTPUT_BLOCKS,
    train_control_tokens: bool = True,
    train_eos: bool = True,
) -> list[bool]:
    """Tell for every token of a row whether it is a target, by walking over its control tokens.

    Tokens behind `[T]`, `[A]` or `[C]` are targets until an input block or `[EOS]` comes; `[EOS]` is one itself.
    `train_control_tokens` says whether `[T]`, `[A]` and `[C]` are. Published: hybrid data trains all of them or, as an
    option, no control token but `[EOS]`; plain pairs (`outputs=("answer",)`) train neither.
    Source: docs/method.md §13.3.
    """
    on = {getattr(special, name) for name in outputs} - {ABSENT}
    off = {getattr(special, name) for name in INPUT_BLOCKS} - {ABSENT}
    inside, labels = False, []
    for identity in ids:
        if identity in on:
            inside = True
            labels.append(train_control_tokens)
        elif identity in off:
            inside = False
            labels.append(False)
        elif identity == special.eos:
            inside = False
            labels.append(train_eos)
        else:
            labels.append(inside)
    return labels


def parse_interaction(ids: Sequence[int], decode: Callable[[list[int]], str], special: SpecialTokens) -> dict[str, str]:
    """Read a whole row back into the fields it was written from; the inverse of `interaction_parts`.

    Raises a `ValueError` for ids that the template cannot write, such as a row that was cut.
    """
    names = {getattr(special, name): name for name in (*INPUT_BLOCKS, *OUTPUT_BLOCKS)}
    if len(ids) < 2 or ids[0] != special.bos or ids[-1] != special.eos:
        raise ValueError("a row of an interaction begins with [BOS] and ends with [EOS]")
    fields: dict[str, list[int]] = {}
    block: list[int] | None = None
    for identity in ids[1:-1]:
        if identity in names:
            if names[identity] in fields:
                raise ValueError(f"the row has two blocks {CONTROL_PIECES[names[identity]]}")
            block = fields[names[identity]] = []
        elif block is None or identity in (special.pad, special.bos, special.eos, special.mask):
            raise ValueError(f"id {identity} does not belong into a row of an interaction")
        else:
            block.append(identity)
    order = [name for name in (*INPUT_BLOCKS, *OUTPUT_BLOCKS) if name in fields]
    if list(fields) != order or {"query", "tool_use"} <= fields.keys():
        raise ValueError(f"the template does not write the blocks {', '.join(fields)} in this order")
    return {name: decode(block) for name, block in fields.items()}


def reading_control_tokens(encode: Encode, special: SpecialTokens) -> Encode:
    """Return an `encode` that turns `[A]` and its like in a text into control tokens, as published.

    Only for reproducing published rows: whoever writes the text can then end an answer or begin one.
    Source: docs/method.md §13.1.
    """
    pieces = {piece: getattr(special, name) for name, piece in CONTROL_PIECES.items()}
    pieces = {piece: identity for piece, identity in pieces.items() if identity != ABSENT}

    def encode_with_control(text: str) -> list[int]:
        ids, start, place = [], 0, text.find("[")
        while place >= 0:
            piece = next((piece for piece in pieces if text.startswith(piece, place)), None)
            if piece is None:
                place = text.find("[", place + 1)
                continue
            ids += [*encode(text[start:place]), pieces[piece]]
            start = place + len(piece)
            place = text.find("[", start)
        return ids + encode(text[start:])

    return encode_with_control


def join_blocks(blocks: Sequence[Block]) -> list[int]:
    """Write blocks one behind the other."""
    return [identity for block in blocks for identity in (block.control, *block.ids)]
