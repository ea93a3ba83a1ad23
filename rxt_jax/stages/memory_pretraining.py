"""Stage 3: memory attention learns to blend what memory holds with what was just said.

    updated = update_memory(M, ED + noise)        loss = −cos(updated, w_acc · M + w_new · ED)

A label that nobody has to write by hand; it fixes the cold start of stage 4, where a random
memory attention would feed noise to the decoder. The encoder stands still, gradients never cross
interactions, and every interaction, the last one included, is written. Source:
docs/method.md §15.4.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.losses.memory_targets import (
    TargetPadding,
    cosine_by_row,
    fit_to_slots,
    memory_targets,
    new_weight,
    shifted_weights,
)
from rxt_jax.model import ModelConfig
from rxt_jax.model.episode import fold_key, scan_interactions
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.model.operation_count import count_operations, forward_passes
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.stage import EpisodeStage
from rxt_jax.types import Array, EpisodeBatch, Key, Metrics

__all__ = ["MemoryPretraining", "TargetDraws"]


class TargetDraws(NamedTuple):
    """Everything random about one interaction; zeros where an option is off."""

    shift: Array
    towards_memory: Array
    input_noise: Array
    label_noise: Array


class _Written(NamedTuple):
    """One interaction as stage 3 sees it: a row, its place in the episode, its loss factor."""

    ids: Array
    token_mask: Array
    valid: Array
    index: Array
    factor: Array


@dataclass(frozen=True, kw_only=True)
class MemoryPretraining(EpisodeStage):
    """Options of stage 3. Source: docs/method.md §15.4."""

    kind = "memory_pretraining"

    new_weights: tuple[float, ...] | None = None
    """Share in [0, 1] of the new encoding in the target, one per interaction; None = the schedule of eq. 68."""
    weight_shift: float = 0.0
    """The share moves by up to this much, either way, in training."""
    input_noise: float = 0.0
    """Standard deviation of what is added to the encoding that is written, in training."""
    label_noise: float = 0.0
    """Standard deviation of what is added to the target, in training."""
    change_penalty: float = 0.0
    """Factor of √(i+1) · mean(change²) of interaction i; 0 = off."""
    target_padding: TargetPadding = "keep"
    """What slots under padding should hold: the encoder state found there (`keep`, published), the old memory
    (`accumulated`), or nothing in particular (`ignore`)."""
    interactions_per_update: int | None = 1
    """Interactions of a window, after each of which the optimizer updates; None = one update per episode."""
    remat: str = "full"
    """What of an interaction is kept for the gradient: none (all of it), full (nothing), names or offload."""
    trainable: tuple[str, ...] = ("memory_attention",)
    """Parameter groups that train; the others stand still."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
        for name in ("weight_shift", "input_noise", "label_noise", "change_penalty"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}. Use 0 to switch it off.")
        if self.new_weights is not None and not all(0.0 <= w <= 1.0 for w in self.new_weights):
            raise ValueError(
                f"new_weights are shares in [0, 1], got {self.new_weights}. "
                f"The accumulated memory gets the rest of each."
            )
        if self.interactions_per_update is not None and self.interactions_per_update < 1:
            raise ValueError(
                f"interactions_per_update must be at least 1, got {self.interactions_per_update}. "
                f"Use None for the whole episode."
            )

    def check_model(self, config: ModelConfig) -> None:
        """Refuse a model whose slots take turns: the targets say what every slot holds after every write."""
        groups = config.memory_attention.layer.slot_groups
        if groups > 1:
            raise ValueError(
                f"memory pre-training has a target for every slot at every write; it needs slot_groups = 1, got "
                f"{groups}. Leave the stage out: history reading teaches more (benchmarks/toy_ablation.md)."
            )

    def interactions(self, batch: EpisodeBatch) -> EpisodeBatch:
        """Prepare an episode batch for the engine, which needs nothing added here."""
        if self.new_weights is not None and len(self.new_weights) < len(batch.ids):
            raise ValueError(
                f"new_weights must cover every interaction, got {len(self.new_weights)} weights "
                f"for episodes of {len(batch.ids)}. Add weights, or use None for the built-in "
                f"schedule."
            )
        return batch

    def begin(self, model: Any, batch_size: int, key: Key | None) -> Array:
        """Give the memory at the start of an episode; without a key always the same one."""
        return beginning_memory(model, batch_size, key)

    def label_counts(self, batch: EpisodeBatch) -> dict[str, Array]:
        """Count the rows that are written."""
        return {"memory": jnp.sum(batch.valid, dtype=jnp.float32)}

    def operations(self, config: ModelConfig, batch: EpisodeBatch) -> float:
        """Count an update's operations: every interaction encoded without a gradient, and written with one."""
        interactions, rows, length = batch.ids.shape
        one = count_operations(config, length)
        return rows * interactions * (one.encode + forward_passes(True) * one.write)

    def draws(self, key: Key | None, index: Array, encoded_shape: tuple, memory_shape: tuple) -> TargetDraws:
        """Draw the noise and the weight shift of one interaction; without a key all of it is
        zero."""
        if key is None:
            zero = jnp.float32(0.0)
            return TargetDraws(zero, jnp.bool_(False), zero, zero)

        def normal(number: int, scale: float, shape: tuple) -> Array:
            if scale == 0.0:
                return jnp.float32(0.0)
            return scale * jax.random.normal(jax.random.fold_in(key, number), shape)

        return TargetDraws(
            shift=self.weight_shift * jax.random.uniform(jax.random.fold_in(key, 0)),
            towards_memory=jax.random.bernoulli(jax.random.fold_in(key, 1)),
            input_noise=normal(2, self.input_noise, encoded_shape),
            label_noise=normal(3, self.label_noise, memory_shape),
        )

    def window_objective(
        self,
        model: Any,
        memory: Array,
        interactions: EpisodeBatch,
        key: Key | None,
        counts: dict[str, Array],
        *,
        start: int | Array = 0,
    ) -> tuple[Array, tuple[Array, Metrics]]:
        """Score a window of interactions that starts with `memory`; return the memory after it."""
        count = len(interactions.ids)
        written = _Written(
            ids=interactions.ids,
            token_mask=interactions.token_mask,
            valid=interactions.valid,
            index=start + jnp.arange(count),
            factor=jnp.broadcast_to(1.0 / jnp.maximum(counts["memory"], 1.0), count),
        )
        return scan_interactions(
            self._interaction_objective, model, memory, written, key, remat=self.remat, start=start
        )

    def objective(
        self, model: Any, batch: EpisodeBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score a batch of whole episodes; `counts` are the label counts of the whole update."""
        memory = self.begin(model, batch.ids.shape[1], key)
        interactions = self.interactions(batch)
        loss, (_, metrics) = self.window_objective(model, memory, interactions, key, counts)
        return loss, metrics

    def _interaction_objective(
        self, model: Any, memory: Array, written: _Written, key: Key | None
    ) -> tuple[Array, tuple[Array, Metrics]]:
        memory = jax.lax.stop_gradient(memory)
        # The encoder is a fixed teacher here: no dropout, no gradient.
        encoded = jax.lax.stop_gradient(model.encode(written.ids, written.token_mask))
        draws = self.draws(fold_key(key, 0), written.index, encoded.shape, memory.shape)
        updated = model.update_memory(memory, encoded + draws.input_noise, written.token_mask, key=fold_key(key, 1))
        target, slot_mask = self._target(memory, encoded, written, draws)
        row_mask = slot_mask if self.target_padding == "ignore" else None
        cosine = cosine_by_row(updated, target, row_mask)
        change = jnp.mean((updated - memory).astype(jnp.float32) ** 2, axis=(0, 2, 3))
        penalty = self.change_penalty * jnp.sqrt(written.index + 1.0) * change
        loss = written.factor * jnp.sum(jnp.where(written.valid, penalty - cosine, 0.0))

        def over_rows(values: Array) -> tuple[Array, Array]:
            rows = jnp.sum(written.valid, dtype=jnp.float32)
            return jnp.sum(jnp.where(written.valid, values, 0.0)), rows

        metrics = {
            "memory/cosine": over_rows(cosine),
            "memory/update_rms": over_rows(jnp.sqrt(change)),
            "memory/cosine_to_old": over_rows(cosine_by_row(updated, memory, row_mask)),
        }
        return loss, (updated, metrics)

    def _target(self, memory: Array, encoded: Array, written: _Written, draws: TargetDraws) -> tuple[Array, Array]:
        if self.new_weights is None:
            new = new_weight(written.index)
        else:
            new = jnp.asarray(self.new_weights, jnp.float32)[written.index]
        weights = shifted_weights(new, draws.shift, draws.towards_memory)
        fitted, slot_mask = fit_to_slots(encoded, written.token_mask, memory.shape[2])
        target = memory_targets(memory, fitted, *weights) + draws.label_noise
        if self.target_padding == "accumulated":
            target = jnp.where(slot_mask[None, :, :, None], target, memory)
        return target, slot_mask
