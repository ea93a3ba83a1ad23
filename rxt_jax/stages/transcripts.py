"""Conversations that a stage led, written down to be looked at."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.stages.rollout import special_ids
from rxt_jax.types import ShapedArray

__all__ = ["Said", "transcripts"]

_WIDTH = 7  # of the word that says who speaks


class Said(NamedTuple):
    """Answers to the queries of conversations: rows of query + answer, `[I B T]`, and what they earned, `[I B]`."""

    ids: ShapedArray
    token_mask: ShapedArray
    rewards: ShapedArray


def transcripts(tokenizer: Tokenizer, said: Mapping[str, Said], valid: ShapedArray, *, count: int = 4) -> list[str]:
    """Write down the first `count` conversations: every query, and the answer of everybody in `said` with its reward.

    The first interaction is the data's own, which nobody answered.
    """
    openings = special_ids(tokenizer).openings
    special = np.array(sorted(tokenizer.special.names))
    told = {who: Said(*(np.asarray(leaf) for leaf in each)) for who, each in said.items()}
    first, real = next(iter(told.values())), np.asarray(valid)

    def text(ids: np.ndarray) -> str:
        return tokenizer.decode(ids[~np.isin(ids, special)].tolist()).strip()

    def parts(each: Said, turn: int, row: int) -> tuple[str, str]:
        ids = np.asarray(each.ids)[turn, row][np.asarray(each.token_mask)[turn, row]]
        places = np.flatnonzero(np.isin(ids, openings))
        cut = places[0] if len(places) else len(ids)
        return text(ids[:cut]), text(ids[cut:])

    found = []
    for row in range(min(count, real.shape[1])):
        lines = [f"conversation {row + 1}"]
        for turn in np.flatnonzero(real[:, row]).tolist():
            query, answer = parts(first, turn, row)
            lines.append(f"{'you':<{_WIDTH}}{query}")
            if not turn:
                lines.append(f"{'data':<{_WIDTH}}{answer}")
                continue
            lines += [
                f"{who:<{_WIDTH}}{parts(each, turn, row)[1]}   (reward {each.rewards[turn, row]:.3g})"
                for who, each in told.items()
            ]
        found.append("\n".join(lines))
    return found
