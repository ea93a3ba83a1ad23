"""Values of recall annotations as token ids, in the spellings that an answer may give them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.rewards.reward import Facts

__all__ = ["ABSTENTIONS", "EncodedFacts", "annotated_values", "encode_abstentions", "encode_facts", "spellings"]

_OPENINGS = ('"', "(")  # a value behind one of these has no space before it

ABSTENTIONS = (
    *(f"{no} {verb}" for no in ("not", "never") for verb in ("told", "tell", "said", "say", "mentioned", "mention")),
    *("do not know", "don't know", "didn't tell", "didn't say", "didn't mention", "haven't told", "haven't said"),
    *("haven't mentioned", "do not remember", "don't remember", "not sure", "cannot know", "no idea"),
)
"""Runs of words that say in an answer that something was not told or is not known; the embedded dialogues' own is
"you have not told me". `evaluation.outcome.abstains` knows more of them, and reads text in place of ids."""


class EncodedFacts(NamedTuple):
    """Values of rows, and how many did not fit."""

    facts: Facts
    left_out: int


def annotated_values(interaction: Mapping[str, Any]) -> list[str]:
    """List the values that an interaction asks for, as its field `recall` says (docs/data.md)."""
    values = []
    for number, each in enumerate(interaction.get("recall") or ()):
        if not isinstance(each, Mapping) or "value" not in each:
            raise ValueError(f'recall[{number}] must be an object with a "value", got {each!r}.')
        values.append(str(each["value"]))
    return values


def spellings(value: str, tokenizer: Tokenizer) -> list[list[int]]:
    """Spell a value as ids: as it is, in small letters and with a capital, behind a space and behind a quote."""
    found: list[list[int]] = []
    for text in dict.fromkeys((value, value.lower(), value[:1].upper() + value[1:])):
        ways = [tokenizer.encode(text)]
        for opening in _OPENINGS:
            whole, head = tokenizer.encode(opening + text), tokenizer.encode(opening)
            if whole[: len(head)] == head:
                ways.append(whole[len(head) :])
        found += [way for way in ways if way and way not in found]
    return found


def encode_facts(
    rows: Sequence[Iterable[str]],
    tokenizer: Tokenizer,
    *,
    max_facts: int = 4,
    max_spellings: int = 6,
    max_tokens: int = 12,
) -> EncodedFacts:
    """Write the values of B rows as `Facts`, whose shape the three limits give whatever the values are.

    A value none of whose spellings has at most `max_tokens` tokens is left out, and so are those beyond `max_facts`.
    """
    for name, limit in (("max_facts", max_facts), ("max_spellings", max_spellings), ("max_tokens", max_tokens)):
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}.")
    shape = (len(rows), max_facts, max_spellings, max_tokens)
    ids, mask, left_out = np.zeros(shape, np.int32), np.zeros(shape, bool), 0
    for row, values in enumerate(rows):
        place = 0
        for value in dict.fromkeys(values):
            fitting = [way for way in spellings(value, tokenizer) if len(way) <= max_tokens][:max_spellings]
            if not fitting or place == max_facts:
                left_out += 1
                continue
            for number, way in enumerate(fitting):
                ids[row, place, number, : len(way)] = way
                mask[row, place, number, : len(way)] = True
            place += 1
    return EncodedFacts(Facts(ids, mask), left_out)


def encode_abstentions(tokenizer: Tokenizer) -> Facts:
    """Write `ABSTENTIONS` as the values of one row: `[1 F P W]`."""
    longest = max(len(way) for phrase in ABSTENTIONS for way in spellings(phrase, tokenizer))
    return encode_facts([ABSTENTIONS], tokenizer, max_facts=len(ABSTENTIONS), max_tokens=longest).facts
