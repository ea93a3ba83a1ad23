"""Between stages 2 and 4: learn to read the past before learning to compress it.

The decoder's memory cross-attention reads the uncompressed encoder states of all earlier
interactions, never those of the current one; no memory attention is involved. This breaks the
plateau on which stage 4 otherwise stays (benchmarks/toy_ablation.md). Source: docs/method.md, eq. 67.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.data.loader import EpisodeBatches
from rxt_jax.model.episode import fold_key, scan_interactions, with_previous
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.answers import (
    answer_factors,
    answer_labels,
    answer_metrics,
    count_answers,
    read_memory,
)
from rxt_jax.stages.stage import Stage
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key, Metrics

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


class _Reading(NamedTuple):
    """An interaction, the part of the history it may read, and the factors of its loss."""

    interaction: Interaction
    readable: Array
    answer_factor: Array
    balance_factor: Array

    @property
    def valid(self) -> Array:
        return self.interaction.valid


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
    remat: str = "full"
    """What of an interaction is kept for the gradient: none (all of it), full (nothing), names or offload."""
    trainable: tuple[str, ...] = ("embedding", "encoder", "decoder", "cross_attention")
    """Parameter groups that train; the others stand still."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")

    def label_counts(self, batch: EpisodeBatch) -> dict[str, Array]:
        """Count labelled tokens and decoder passes."""
        labels = answer_labels(with_previous(batch), self.train_first_interaction)
        return count_answers(labels, "tokens")

    def objective(
        self, model: Any, batch: EpisodeBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score a batch of whole episodes; `counts` are the label counts of the whole update."""
        history, readable = encode_history(model, batch, key)
        if self.detach_encoder_states:
            history = jax.lax.stop_gradient(history)

        def read(
            model: Any, memory: tuple[()], reading: _Reading, key: Key | None
        ) -> tuple[Array, tuple[tuple[()], Metrics]]:
            interaction = reading.interaction
            labels = answer_labels(interaction, self.train_first_interaction)
            answer, balance = read_memory(model, history, interaction, labels, key, memory_mask=reading.readable)
            loss = reading.answer_factor * answer.loss + reading.balance_factor * balance
            return loss, (memory, answer_metrics(answer, balance))

        # The history is a constant of the scan, not its carry: nothing of size I² is ever stored.
        factors = answer_factors(counts, "tokens", self.balance_loss_scale, len(batch.ids))
        readings = _Reading(with_previous(batch), readable, *factors)
        loss, (_, metrics) = scan_interactions(read, model, (), readings, key, remat=self.remat)
        return loss, metrics
