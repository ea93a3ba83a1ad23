"""Rows of ids with their masks, for interactions, episodes and texts."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.config import DataConfig
from rxt_jax.data.template import interaction_parts
from rxt_jax.data.tokenizer import Tokenizer

__all__ = ["LoadReport", "Row", "RowEncoder"]


class Row(NamedTuple):
    """One interaction: its ids, how many of them are the prompt, and whether it is to be used."""

    ids: list[int]
    prompt_length: int
    valid: bool = True


@dataclass
class LoadReport:
    """How many rows were read, and what did not fit; distinct rows are not told apart."""

    rows: int = 0
    cut: int = 0
    skipped: int = 0
    episodes_shortened: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, **amounts: int) -> None:
        """Add to the counters; loaders call this from several threads."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def summary(self) -> str:
        """Say it in one line."""
        return (
            f"{self.rows} rows read: {self.cut} over-long ones cut, {self.skipped} skipped, "
            f"{self.episodes_shortened} episodes shortened"
        )


class RowEncoder:
    """Turn records into rows of at most `max_length` tokens; fields met before are not tokenised again."""

    def __init__(self, tokenizer: Tokenizer, config: DataConfig):
        self.tokenizer = tokenizer
        self.config = config
        self.special = tokenizer.special
        self.report = LoadReport()
        self.encode = lru_cache(maxsize=1 << 17)(tokenizer.encode)

    def interaction(self, interaction: Mapping[str, Any]) -> Row:
        """Encode one interaction and apply the policy for over-long ones."""
        prompt, answer = interaction_parts(interaction, self.encode, self.special)
        length, policy = self.config.max_length, self.config.overlong
        excess = len(prompt) + len(answer) - length
        if excess <= 0:
            self.report.count(rows=1)
            return Row(prompt + answer, len(prompt))
        if policy == "error":
            text = interaction.get("query") or interaction.get("tool_use")
            raise ValueError(
                f"an interaction has {len(prompt) + len(answer)} tokens, more than max_length = {length}: {text!r}. "
                f"Raise data.max_length, or choose another data.overlong."
            )
        if policy == "skip":
            self.report.count(rows=1, skipped=1)
            return Row([self.special.bos], 1, valid=False)
        self.report.count(rows=1, cut=1)
        if policy == "cut_input":
            # [BOS] and the control token stay; the text between them and its end is lost.
            keep = max(len(prompt) - excess, 2)
            prompt = prompt[:2] + prompt[len(prompt) - keep + 2 :]
        ids = (prompt + answer)[:length]
        return Row(ids, min(len(prompt), len(ids)))

    def episode(self, episode: Mapping[str, Any]) -> list[Row]:
        """Encode the first `max_interactions` interactions of an episode."""
        interactions = episode["interactions"]
        if len(interactions) > self.config.max_interactions:
            self.report.count(episodes_shortened=1)
        return [self.interaction(each) for each in interactions[: self.config.max_interactions]]

    def text(self, text: str) -> Row:
        """Encode a plain text, `[BOS] text [EOS]`, cut on the right; all of it is a target."""
        ids = [self.special.bos, *self.tokenizer.encode(text), self.special.eos]
        length = self.config.text_length
        self.report.count(rows=1, cut=int(len(ids) > length))
        return Row(ids[:length], 1)


def stack_rows(rows: list[Row], length: int, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad rows on the right: ids, token mask, loss mask, each `[rows, length]`."""
    ids = np.full((len(rows), length), pad, np.int32)
    token_mask = np.zeros((len(rows), length), bool)
    loss_mask = np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = row.ids
        token_mask[number, :size] = row.valid
        loss_mask[number, row.prompt_length : size] = row.valid
    return ids, token_mask, loss_mask
