"""Between stages 2 and 4: learn to read the past before learning to compress it.

The decoder's memory cross-attention reads the uncompressed encoder states of all earlier
interactions, never those of the current one; no memory attention is involved. This breaks the
plateau on which stage 4 otherwise stays (benchmarks/toy_ablation.md). Source: docs/method.md, eq. 67.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rxt_jax.data.loader import EpisodeBatches
from rxt_jax.model import ModelConfig
from rxt_jax.model.episode import fold_key, with_previous
from rxt_jax.model.operation_count import count_operations, forward_passes
from rxt_jax.stages.answers import (
    answer_factors,
    answer_labels,
    answer_metrics,
    count_answers,
    read_memories,
)
from rxt_jax.stages.stage import Stage
from rxt_jax.types import Array, EpisodeBatch, Key, Metrics

__all__ = ["HistoryReading", "encode_history"]

_ENCODER_KEY = 0x484953  # far from any interaction index, with which it shares a key


def encode_history(model: Any, batch: EpisodeBatch, key: Key | None) -> tuple[Array, Array]:
    """Encode every interaction but the last, once: states `[L B H D]` and who may read them, `[I
    B H]`.

    H = (I − 1)·T slots in order of time. `readable[i]` holds the real tokens of real interactions
    before i.
    """
    count, rows, length = batch.ids.shape
    earlier = max(count - 1, 1)

    def join(leaf: Array) -> Array:
        # Rows first: a batch that is split over devices stays where it is.
        return jnp.swapaxes(leaf[:earlier], 0, 1).reshape(rows * earlier, length)

    encoded = model.encode(join(batch.ids), join(batch.token_mask), key=fold_key(key, _ENCODER_KEY))
    history = encoded.reshape(encoded.shape[0], rows, earlier * length, encoded.shape[-1])
    real = batch.token_mask[:earlier] & batch.valid[:earlier, :, None]
    real = jnp.swapaxes(real, 0, 1).reshape(rows, earlier * length)
    moment = jnp.repeat(jnp.arange(earlier), length)
    return history, real[None] & (moment < jnp.arange(count)[:, None])[:, None, :]


@dataclass(frozen=True, kw_only=True)
class HistoryReading(Stage):
    """Options of history reading. Source: docs/method.md §15.3."""

    kind = "history_reading"
    rows = EpisodeBatches

    detach_encoder_states: bool = False
    """Whether the loss sends no gradient into the encoder, which trains the reader alone."""
    train_first_interaction: bool = True
    """Whether the answer to the first query, which has no history, is scored."""
    balance_loss_scale: float = 0.01
    """Factor of the decoder's router loss; a dense model has none."""
    interactions_per_call: int = 1
    """Interactions that one call of the decoder reads; calls that no row needs are skipped."""
    trainable: tuple[str, ...] = ("embedding", "encoder", "decoder", "cross_attention")
    """Parameter groups that train; the others stand still."""

    def __post_init__(self) -> None:
        if self.interactions_per_call < 1:
            raise ValueError(f"interactions_per_call must be at least 1, got {self.interactions_per_call}.")

    def label_counts(self, batch: EpisodeBatch) -> dict[str, Array]:
        """Count labelled tokens and decoder passes."""
        labels = answer_labels(with_previous(batch), self.train_first_interaction)
        return count_answers(labels, "tokens", batch.loss_weights)

    def operations(self, config: ModelConfig, batch: EpisodeBatch) -> float:
        """Count an update's operations: every interaction but the last encoded, each read with all of them as slots."""
        interactions, rows, length = batch.ids.shape
        earlier = max(interactions - 1, 1)
        one = count_operations(config, length, earlier * length)
        encoder_trains = "encoder" in self.trainable and not self.detach_encoder_states
        scored = float(np.sum(batch.loss_mask[..., 1:]))
        encoded = forward_passes(encoder_trains) * rows * earlier * one.encode
        return encoded + forward_passes(True) * (rows * interactions * one.read + scored * one.head)

    def objective(
        self, model: Any, batch: EpisodeBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score a batch of whole episodes; `counts` are the label counts of the whole update."""
        history, readable = encode_history(model, batch, key)
        if self.detach_encoder_states:
            history = jax.lax.stop_gradient(history)

        interactions = with_previous(batch)
        loss, answer, balance = read_memories(
            model,
            history,
            interactions,
            answer_labels(interactions, self.train_first_interaction),
            answer_factors(counts, "tokens", self.balance_loss_scale, len(batch.ids)),
            key,
            memory_mask=readable,
            interactions_per_call=self.interactions_per_call,
        )
        return loss, answer_metrics(answer, balance)
