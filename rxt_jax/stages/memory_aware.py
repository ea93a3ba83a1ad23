"""Stage 4: answers are learnt with nothing but memory of what came before.

    memory i−1, interaction i−1 ──▶ encode ──▶ update_memory ──▶ memory i
    memory i,   interaction i   ──▶ decode ──▶ loss of the answer

The predecessor of every interaction is written before it is read, so the answer that is scored is
never in memory, interaction 0 reads the initial memory, and the last interaction is never
written. Only the memory network waits for its turn: encoder and decoder read several interactions
in one call. The default sends the gradient through the whole chain and updates once per batch of
episodes; `memory_gradient_steps=1, interactions_per_update=1` is the published timing. Source:
docs/method.md §15.5.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.loader import Batches
from rxt_jax.model import ModelConfig
from rxt_jax.model.episode import fold_key, keep_rows, scan_interactions, with_previous
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.model.operation_count import episode_operations
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.answers import (
    EpisodeNormalisation,
    answer_factors,
    answer_labels,
    answer_metrics,
    count_answers,
    read_memories,
)
from rxt_jax.stages.memory_writing import row_cosine, write_memories, write_without_scoring
from rxt_jax.stages.stage import EpisodeStage, Reading
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key, Metrics

__all__ = ["MemoryAware"]


@dataclass(frozen=True, kw_only=True)
class MemoryAware(EpisodeStage):
    """Options of stage 4. Source: docs/method.md §15.5."""

    kind = "memory_aware"

    memory_gradient_steps: int | None = None
    """Memory writes that a gradient may cross; None = all of the episode."""
    interactions_per_update: int | None = None
    """Interactions of a window, where an episode is cut into several with an update after each; None = one update per
    episode."""
    normalisation: EpisodeNormalisation = "tokens"
    """How the losses of the interactions join."""
    train_first_interaction: bool = True
    """Whether the answer to the first query, which memory cannot help, is scored."""
    balance_loss_scale: float = 0.01
    """Factor of the decoder's router loss; a dense model has none."""
    memory_dropout: float = 0.0
    """Probability in [0, 1) per row and interaction to forget all but the previous interaction, in training."""
    window: int | None = None
    """Interactions of the one window that an episode trains, drawn anew on every visit: memory of everything before
    it is written without gradient, and the loader puts it at the end of the batch. None = the episode from its
    beginning, as far as the data's `max_interactions`."""
    interactions_per_call: int = 1
    """Interactions that one call of encoder or decoder reads; calls that no row needs are skipped."""
    remat: str = "full"
    """What of what writes memory is kept for the gradient: none (all of it), full (nothing), names or offload."""
    trainable: tuple[str, ...] = (
        "embedding",
        "encoder",
        "decoder",
        "cross_attention",
        "memory_attention",
        "learned_memory",
    )
    """Parameter groups that train. Without "encoder" or "memory_attention" memory is written without gradient, so that
    the embedding learns through the decoder alone."""
    unfreeze: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Pairs of an update and the groups that stand still before it."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
        for name in ("memory_gradient_steps", "interactions_per_update", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}. Use None for the whole episode.")
        if self.interactions_per_call < 1:
            raise ValueError(f"interactions_per_call must be at least 1, got {self.interactions_per_call}.")
        if self.window is not None and self.interactions_per_update is not None:
            raise ValueError("window trains a part of an episode by one update; set interactions_per_update to None.")
        if not 0.0 <= self.memory_dropout < 1.0:
            raise ValueError(
                f"memory_dropout is a probability below 1, got {self.memory_dropout}. Use 0 to switch it off."
            )

    def batches(self, reading: Reading) -> Batches:
        """Read episodes, or windows of them."""
        return reading.batches(self.rows, window=self.window)

    def interactions(self, batch: EpisodeBatch) -> Interaction:
        """Prepare an episode batch for the engine."""
        return with_previous(batch)

    def begin(self, model: Any, batch_size: int, key: Key | None) -> Array:
        """Give the memory at the start of an episode; without a key always the same one."""
        return beginning_memory(model, batch_size, key)

    def label_counts(self, batch: EpisodeBatch | Interaction) -> dict[str, Array]:
        """Count labelled tokens (per interaction where those are averaged) and decoder passes."""
        interactions = batch if isinstance(batch, Interaction) else with_previous(batch)
        labels = answer_labels(interactions, self.train_first_interaction)
        return count_answers(labels, self.normalisation, interactions.loss_weights)

    def window_objective(
        self,
        model: Any,
        memory: Array,
        interactions: Interaction,
        key: Key | None,
        counts: dict[str, Array],
        *,
        start: int | Array = 0,
        first_is_written: bool = False,
    ) -> tuple[Array, tuple[Array, Metrics]]:
        """Score a window of interactions that starts with `memory`; return the memory after it.

        `first_is_written`: the predecessor of the first interaction is in `memory` already.
        """
        to_write = interactions
        if first_is_written:
            to_write = interactions._replace(previous_valid=interactions.previous_valid.at[0].set(False))
        memories, report = write_memories(
            model,
            memory,
            to_write,
            key,
            gradient=self._learns_to_write,
            before_write=self._forget_rows if self.memory_dropout > 0.0 and key is not None else None,
            memory_gradient_steps=self.memory_gradient_steps,
            interactions_per_call=self.interactions_per_call,
            remat=self.remat,
            start=start,
            skips_first=first_is_written or (isinstance(start, int) and start == 0),
        )
        loss, answer, balance = read_memories(
            model,
            memories,
            interactions,
            answer_labels(interactions, self.train_first_interaction),
            answer_factors(counts, self.normalisation, self.balance_loss_scale, len(interactions.ids)),
            key,
            interactions_per_call=self.interactions_per_call,
            start=start,
        )
        written = jax.tree.map(jnp.sum, report.metrics(to_write))
        return loss, (memories[-1], answer_metrics(answer, balance) | written)

    def objective(
        self, model: Any, batch: EpisodeBatch, key: Key | None, counts: dict[str, Array]
    ) -> tuple[Array, Metrics]:
        """Score a batch of whole episodes, or of windows; `counts` are the label counts of the whole update."""
        memory, interactions = self.begin(model, batch.ids.shape[1], key), self.interactions(batch)
        past = 0 if self.window is None else max(len(batch.ids) - self.window, 0)
        if past:
            memory = self._remember(model, memory, jax.tree.map(lambda leaf: leaf[: past + 1], interactions), key)
            interactions = jax.tree.map(lambda leaf: leaf[past:], interactions)
        loss, (memory, metrics) = self.window_objective(
            model, memory, interactions, key, counts, start=past, first_is_written=past > 0
        )
        return loss, metrics | {"memory/row_cosine": row_cosine(memory)}

    def operations(self, config: ModelConfig, batch: EpisodeBatch) -> float:
        """Count an update's operations: writes without their gradient where no writer trains, or before a window."""
        interactions, rows, length = batch.ids.shape
        past = 0 if self.window is None else max(interactions - self.window, 0)
        return episode_operations(
            config,
            rows=rows,
            interactions=interactions,
            length=length,
            scored_tokens=int(np.sum(batch.loss_mask[..., 1:])),
            past=past,
            writer_trains=self._learns_to_write,
        )

    @property
    def _learns_to_write(self) -> bool:
        return bool({"encoder", "memory_attention"} & set(self.trainable))

    def _remember(self, model: Any, memory: Array, interactions: Interaction, key: Key | None) -> Array:
        """Write the past of a window without gradient; rows without one keep their initial memory and its gradient."""
        graphdef, params = nnx.split(model)
        still, memory_before = nnx.merge(graphdef, jax.lax.stop_gradient(params)), jax.lax.stop_gradient(memory)
        walk = (write_without_scoring, still, memory_before, interactions, key)
        _, (written, _) = scan_interactions(*walk, remat="none")
        return keep_rows(jnp.any(interactions.previous_valid, axis=0), written, memory)

    def _forget_rows(self, model: Any, memory: Array, interaction: Interaction, key: Key | None) -> Array:
        """Give some rows the initial memory; what was just said is written to it afterwards."""
        draw, lose = (fold_key(fold_key(key, 2), number) for number in (0, 1))
        assert lose is not None
        initial = model.initial_memory(memory.shape[1], draw)
        lost = jax.random.bernoulli(lose, self.memory_dropout, (memory.shape[1],))
        return keep_rows(lost & interaction.previous_valid, initial, memory)
