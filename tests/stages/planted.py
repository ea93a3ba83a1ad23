"""Conversations, a tokenizer and a reward for tests of reinforcement."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from small import VOCABULARY, small_config

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.rewards import Reward
from rxt_jax.types import EpisodeBatch, PreferenceBatch

SPECIAL = SpecialTokens()
TOKENIZER = SimpleNamespace(special=SPECIAL, vocab_size=VOCABULARY, token_bytes=[b"a"] * VOCABULARY)


@dataclass(frozen=True, kw_only=True)
class SavedShare(Reward):
    """The share of an answer's tokens that the saved interaction has; the carry counts the answers so far."""

    name = "saved_share"

    def first_carry(self, rows, context):
        return jnp.zeros(rows)

    def score(self, given, context, carry):
        known = (given.generated.ids[:, :, None] == given.saved.ids[:, None]) & given.saved.mask[:, None]
        mask = given.generated.mask & ~context.special[given.generated.ids]
        share = jnp.sum(jnp.any(known, axis=-1) & mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)
        return share, {"turn": carry}, carry + 1.0


def tiny_config(**changes):
    """One layer of everything: it compiles in half the time, and what is tested with it does not depend on depth."""
    config = small_config(**changes)
    return replace(config, num_layers=1, decoder=replace(config.decoder, stateless=()))


def conversations(seed: int = 0, interactions: int = 4, rows: int = 4, length: int = 12, ragged: bool = True):
    """Rows [BOS] [Q] words [A] words [EOS] of a few words; row 0 has all interactions."""
    rng = np.random.default_rng(seed)
    shape = (interactions, rows, length)
    ids, token_mask, loss_mask = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, bool)
    for i in range(interactions):
        for b in range(rows):
            query, answer = (rng.integers(11, VOCABULARY, rng.integers(1, 3)) for _ in range(2))
            row = [SPECIAL.bos, SPECIAL.query, *query, SPECIAL.answer, *answer, SPECIAL.eos]
            ids[i, b, : len(row)], token_mask[i, b, : len(row)] = row, True
            loss_mask[i, b, 2 + len(query) : len(row)] = True
    turns = rng.integers(min(2, interactions), interactions + 1, rows)
    turns[0] = interactions
    valid = np.arange(interactions)[:, None] < (turns if ragged else interactions)
    return EpisodeBatch(ids, token_mask, loss_mask, np.broadcast_to(valid, shape[:2]).copy())


def planted_preferences(seed: int = 0, rows: int = 16, values: int = 4, length: int = 8) -> PreferenceBatch:
    """Interaction 0 plants one of a few tokens, interaction 1 asks for it: which answer is better, only memory tells.

    Rows are [BOS] [Q] word [A] word [EOS]. The first interaction has no rejected answer.
    """
    rng = np.random.default_rng(seed)
    first, talk, ask = 20, 30, 31
    value = rng.integers(first, first + values, rows)
    wrong = first + (value - first + rng.integers(1, values, rows)) % values

    def episodes(answers, valid) -> EpisodeBatch:
        ids = np.full((2, rows, length), SPECIAL.pad, np.int32)
        for turn, (query, answer) in enumerate(zip((value, np.full(rows, ask)), answers, strict=True)):
            for place, token in enumerate((SPECIAL.bos, SPECIAL.query, query, SPECIAL.answer, answer, SPECIAL.eos)):
                ids[turn, :, place] = token
        places = np.broadcast_to(np.arange(length), ids.shape)
        return EpisodeBatch(ids, places < 6, (places >= 3) & (places < 6), valid)

    everyone = np.ones((2, rows), bool)
    asked = everyone & (np.arange(2)[:, None] == 1)
    chosen = episodes((np.full(rows, talk), value), everyone)
    rejected = episodes((np.full(rows, talk), wrong), asked)
    return PreferenceBatch(chosen, rejected, rejected._replace(valid=~everyone))
