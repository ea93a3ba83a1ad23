"""The interaction template: which control tokens stand where.

    [BOS] ([I] internal)? ([U] tool_use | [Q] query)  |  ([T] think)? ([A] answer)? ([C] tool_call)? [EOS]
                       prompt part                    |                  answer part

Every token of the answer part is a target. Source: supervised spec §3.6 and §3.8.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rxt_jax.data.special_tokens import SpecialTokens

__all__ = ["interaction_parts", "prompt_ids"]

Encode = Callable[[str], list[int]]


def prompt_ids(interaction: Mapping[str, Any], encode: Encode, special: SpecialTokens) -> list[int]:
    """Write the prompt part."""
    ids = [special.bos]
    if interaction.get("internal"):
        ids += [special.require("internal"), *encode(interaction["internal"])]
    if interaction.get("tool_use"):
        return [*ids, special.require("tool_use"), *encode(interaction["tool_use"])]
    return [*ids, special.query, *encode(interaction["query"])]


def interaction_parts(
    interaction: Mapping[str, Any], encode: Encode, special: SpecialTokens
) -> tuple[list[int], list[int]]:
    """Write the prompt part and the answer part of a checked interaction."""
    answer: list[int] = []
    for name in ("think", "answer", "tool_call"):
        if interaction.get(name):
            answer += [special.require(name), *encode(interaction[name])]
    return prompt_ids(interaction, encode, special), [*answer, special.eos]
