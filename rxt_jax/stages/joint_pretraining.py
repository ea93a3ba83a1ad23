"""Stage 1: encoder and decoder learn language together, the decoder reading the encoder's states.

    encoder([MASK]ed row) ──▶ states ED ──▶ MLM head ──▶ masked-language loss
                                 │ detached, one memory layer per encoder layer, slots = tokens
    decoder(row) ◀───────────────┘ ──▶ next-token loss

The decoder can copy its own row out of that memory, so its loss falls low: the stage ties the two
vector spaces together and leaves the habit to be unlearned by `history_reading` and stage 4.
Source: docs/method.md §15.1.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rxt_jax.compatibility import PretrainingCompatibility
from rxt_jax.data.loader import TextBatches
from rxt_jax.losses.cross_entropy import projected_answer_cross_entropy, projected_cross_entropy
from rxt_jax.model import ModelConfig
from rxt_jax.model.episode import fold_key
from rxt_jax.model.operation_count import count_operations, forward_passes
from rxt_jax.ops.attention import document_mask
from rxt_jax.stages.stage import Stage
from rxt_jax.types import Array, Key, Metrics, RowBatch

__all__ = ["JointPretraining", "joint_loss", "perturb_states"]


def perturb_states(encoded: Array, key: Key | None, *, noise: float = 0.0, masking: float = 0.0) -> Array:
    """Drop whole states with probability `masking` (no rescaling), then add N(0, noise²) to every
    element.

    Training only: without a key the states come back as they are. Source: docs/method.md, eq. 65.
    """
    if key is None:
        return encoded
    if masking > 0.0:
        keep = jax.random.bernoulli(jax.random.fold_in(key, 0), 1.0 - masking, encoded.shape[:-1])
        encoded = jnp.where(keep[..., None], encoded, 0.0)
    if noise > 0.0:
        encoded = encoded + noise * jax.random.normal(jax.random.fold_in(key, 1), encoded.shape)
    return encoded


def joint_loss(
    stage: "JointPretraining", model: Any, batch: RowBatch, key: Key | None, counts: dict
) -> tuple[Array, Metrics]:
    """Compute the objective of stages 1 and 2: which rows come in is the only difference between
    them."""
    if batch.masked_ids is None:
        raise ValueError(
            f"{stage.kind} wants rows with masked_ids, the ids with [MASK] where mlm_mask is True; these have none. "
            f"Use TextBatches or InteractionBatches, which write them with the tokenizer's [MASK]."
        )
    encoded = model.encode(batch.masked_ids, batch.token_mask, documents=batch.documents, key=fold_key(key, 0))
    masked = projected_cross_entropy(model.masked_language_logits, encoded[-1], batch.ids, _mlm_labels(batch))
    memory = jax.lax.stop_gradient(encoded) if stage.detach_encoder_states else encoded
    memory = stage.perturb(memory, fold_key(key, 1))
    hidden, balance = model.decode_hidden(
        batch.ids,
        batch.token_mask,
        memory,
        memory_mask=_readable(stage, batch),
        documents=batch.documents,
        key=fold_key(key, 2),
    )
    targets = _targets(batch, stage.compatibility.loss_on_padding)
    answer = projected_answer_cross_entropy(model.logits, hidden, batch.ids, targets)

    loss = (
        stage.encoder_loss_scale * masked.loss / jnp.maximum(counts["masked_language"], 1.0)
        + stage.decoder_loss_scale * answer.loss / jnp.maximum(counts["answer"], 1.0)
        + stage.decoder_loss_scale * stage.balance_loss_scale * balance / counts["balance"]
    )
    one = jnp.float32(1.0)
    metrics = {
        "masked_language/loss": (masked.loss, masked.count),
        "masked_language/accuracy": (masked.correct, masked.count),
        "answer/loss": (answer.loss, answer.count),
        "answer/accuracy": (answer.correct, answer.count),
        "router/balance": (balance, one),
    }
    return loss, metrics


@dataclass(frozen=True, kw_only=True)
class JointPretraining(Stage):
    """Options of stage 1. Source: docs/method.md, eq. 65 and 66."""

    kind = "joint_pretraining"
    rows = TextBatches

    encoder_loss_scale: float = 1.0
    """Factor of the masked-language loss."""
    decoder_loss_scale: float = 1.0
    """Factor of the next-token loss and of the router loss beside it."""
    balance_loss_scale: float = 0.01
    """Factor of the decoder's router loss inside the decoder's term; a dense model has none."""
    memory_noise: float = 0.0
    """Standard deviation of what is added to the states that the decoder reads, in training."""
    memory_masking: float = 0.0
    """Probability in [0, 1) that a whole state is zeroed before the decoder reads it, in training."""
    detach_encoder_states: bool = True
    """Whether the next-token loss sends no gradient into the encoder."""
    compatibility: PretrainingCompatibility = field(default_factory=PretrainingCompatibility)
    """Published behaviour, off by default."""
    trainable: tuple[str, ...] = (
        "embedding",
        "encoder",
        "decoder",
        "cross_attention",
        "masked_language_head",
    )
    """Parameter groups that train; the others stand still."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.memory_masking < 1.0:
            raise ValueError(
                f"memory_masking is the share of dropped encoder states, in [0, 1), got "
                f"{self.memory_masking}. Use 0 to keep all of them."
            )
        if self.memory_noise < 0.0:
            raise ValueError(
                f"memory_noise is a standard deviation and must not be negative, got "
                f"{self.memory_noise}. Use 0 to switch it off."
            )

    def label_counts(self, batch: RowBatch) -> dict[str, Array]:
        """Count the labels of every loss term; micro-batches add up."""
        targets = _targets(batch, self.compatibility.loss_on_padding)[:, 1:]
        return {
            "masked_language": jnp.sum(_mlm_labels(batch), dtype=jnp.float32),
            "answer": jnp.sum(targets, dtype=jnp.float32),
            "balance": jnp.float32(1.0),
        }

    def operations(self, config: ModelConfig, batch: RowBatch) -> float:
        """Count an update's operations: a row encoded and read again, with as many slots as it has tokens."""
        rows, length = batch.ids.shape
        one = count_operations(config, length, length)
        encoder_trains = bool({"encoder", "masked_language_head"} & set(self.trainable))
        masked = float(np.sum(batch.mlm_mask & batch.token_mask))
        scored = float(np.sum(batch.loss_mask[:, 1:]))
        encoded = rows * one.encode + masked * one.masked_language_head
        return forward_passes(encoder_trains) * encoded + forward_passes(True) * (rows * one.read + scored * one.head)

    def perturb(self, encoded: Array, key: Key | None) -> Array:
        """Disturb the states that the decoder reads, in training."""
        return perturb_states(encoded, key, noise=self.memory_noise, masking=self.memory_masking)

    def objective(
        self, model: Any, batch: RowBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score one batch of rows; `counts` are the label counts of the whole update."""
        return joint_loss(self, model, batch, key, counts)


def _readable(stage: "JointPretraining", batch: RowBatch) -> Array | None:
    """Say which encoder states a token may read; slot j is token j, so packed documents see their own alone."""
    if batch.documents is not None:
        return document_mask(batch.documents)
    return None if stage.compatibility.read_padding else batch.token_mask


def _mlm_labels(batch: RowBatch) -> Array:
    return jnp.logical_and(batch.mlm_mask, batch.token_mask)


def _targets(batch: RowBatch, loss_on_padding: bool) -> Array:
    if loss_on_padding:
        return jnp.logical_or(batch.loss_mask, ~batch.token_mask)
    return jnp.asarray(batch.loss_mask)
