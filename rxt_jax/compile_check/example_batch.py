"""A batch of the shapes that a stage reads, without any data: full rows, half of every row an answer."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from rxt_jax.data.config import DataConfig
from rxt_jax.data.loader import (
    ConversationBatches,
    EpisodeBatches,
    InteractionBatches,
    PreferenceBatches,
    TextBatches,
)
from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.rewards import Facts, encode_facts
from rxt_jax.stages.rollout_batches import RolloutBatch, RolloutBatches, needs_facts
from rxt_jax.stages.stage import Stage
from rxt_jax.types import EpisodeBatch, PreferenceBatch, RowBatch

__all__ = ["example_batch", "example_tokenizer"]


def example_batch(stage: Stage, data: DataConfig, rows: int) -> Any:
    """Make the largest batch of `rows` that a stage can read with these settings, on the host.

    Raises a `ValueError` for a kind of rows that is not known here.
    """
    kind = stage.rows
    if issubclass(kind, PreferenceBatches):
        episode = _episode(data, rows)
        reference = None
        if getattr(stage, "reference", None) == "precomputed":
            reference = np.zeros((*episode.valid.shape, 3), np.float32)
        return PreferenceBatch(episode, episode, episode, reference)
    if issubclass(kind, RolloutBatches):
        return _conversations(data, rows, facts=needs_facts(stage.reward))  # type: ignore[attr-defined]
    if issubclass(kind, EpisodeBatches):
        return _episode(data, rows)
    lengths = {
        TextBatches: data.text_length,
        InteractionBatches: data.max_length,
        ConversationBatches: data.conversation_length,
    }
    length = next((length for base, length in lengths.items() if issubclass(kind, base)), None)
    if length is None:
        raise ValueError(f"{stage.kind} reads {kind.__name__}, whose shapes compile-check does not know.")
    ids, whole, answer = _row((rows, length))
    masked = np.random.default_rng(0).random(ids.shape) < data.mask_probability
    documents = None if data.packing is None else np.ones(ids.shape, np.int32)
    return RowBatch(ids, whole, answer, masked, documents, None if kind is ConversationBatches else ids)


def example_tokenizer(vocab_size: int) -> Any:
    """Stand in for a tokenizer of so many tokens: stages that act want to know its control tokens."""
    return SimpleNamespace(special=SpecialTokens(), vocab_size=vocab_size, token_bytes=[b"a"] * vocab_size)


def _episode(data: DataConfig, rows: int) -> EpisodeBatch:
    ids, whole, answer = _row((data.max_interactions, rows, data.max_length))
    return EpisodeBatch(ids, whole, answer, np.ones(ids.shape[:2], bool))


def _conversations(data: DataConfig, rows: int, *, facts: bool) -> RolloutBatch:
    """Make conversations to be led, with room for the values that a reward looks for."""
    episode = _episode(data, rows)
    if not facts:
        return RolloutBatch(*episode)
    shape = episode.valid.shape
    room = encode_facts([()] * episode.valid.size, example_tokenizer(0)).facts
    values = Facts(*(leaf.reshape(*shape, *leaf.shape[1:]) for leaf in room))
    return RolloutBatch(*episode, values, values, np.zeros(shape, np.float32))


def _row(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    answer = np.broadcast_to(np.arange(shape[-1]) >= shape[-1] // 2, shape).copy()
    return np.ones(shape, np.int32), np.ones(shape, bool), answer
