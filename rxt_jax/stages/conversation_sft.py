"""Training of the stateless baseline: whole conversations in one row, all answers scored at once.

The same conversations, template and scored tokens as stage 4, so that the two models can be compared; here the
past is read again as text. Source: docs/method.md, eq. 78.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from rxt_jax.data.loader import ConversationBatches
from rxt_jax.losses.cross_entropy import projected_answer_cross_entropy
from rxt_jax.model import BaselineConfig
from rxt_jax.model.operation_count import count_operations, forward_passes
from rxt_jax.stages.stage import Stage
from rxt_jax.types import Array, Key, Metrics, RowBatch

__all__ = ["ConversationSft"]


@dataclass(frozen=True, kw_only=True)
class ConversationSft(Stage):
    """Options of the baseline's training; for a `BaselineConfig` alone."""

    kind = "conversation_sft"
    rows = ConversationBatches
    model_config = BaselineConfig

    balance_loss_scale: float = 0.01
    """Factor of the router loss; a dense model has none."""
    trainable: tuple[str, ...] = ("embedding", "decoder")
    """Parameter groups that train; the others stand still."""

    def label_counts(self, batch: RowBatch) -> dict[str, Array]:
        """Count the scored tokens; micro-batches add up."""
        return {"answer": jnp.sum(batch.loss_mask[:, 1:], dtype=jnp.float32), "balance": jnp.float32(1.0)}

    def operations(self, config: BaselineConfig, batch: RowBatch) -> float:
        """Count an update's operations."""
        rows, length = batch.ids.shape
        one = count_operations(config, length)
        return forward_passes(True) * (rows * one.read + float(np.sum(batch.loss_mask[:, 1:])) * one.head)

    def objective(
        self, model: Any, batch: RowBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score a batch of conversations; `counts` are the label counts of the whole update."""
        hidden, balance = model.decode_hidden(batch.ids, batch.token_mask, key=key)
        answer = projected_answer_cross_entropy(model.logits, hidden, batch.ids, jnp.asarray(batch.loss_mask))
        loss = answer.loss / jnp.maximum(counts["answer"], 1.0)
        loss = loss + self.balance_loss_scale * balance / counts["balance"]
        metrics = {
            "answer/loss": (answer.loss, answer.count),
            "answer/accuracy": (answer.correct, answer.count),
            "router/balance": (balance, jnp.float32(1.0)),
        }
        return loss, metrics
