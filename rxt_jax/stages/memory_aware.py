"""Stage 4: answers are learnt with nothing but memory of what came before.

    memory i−1, interaction i−1 ──▶ encode ──▶ update_memory ──▶ memory i
    memory i,   interaction i   ──▶ decode ──▶ loss of the answer

Every interaction first writes its predecessor and then reads, so the answer that is scored is
never in memory, interaction 0 reads the initial memory, and the last interaction is never
written. The default sends the gradient through the whole chain and updates once per batch of
episodes; `memory_gradient_steps=1, interactions_per_update=1` is the published timing. Source:
docs/method.md §15.5.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.data.loader import Batches
from rxt_jax.model.episode import fold_key, keep_rows, scan_interactions, with_previous
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.answers import (
    EpisodeNormalisation,
    answer_factors,
    answer_labels,
    answer_metrics,
    count_answers,
    read_memory,
)
from rxt_jax.stages.stage import EpisodeStage, Reading
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key, Metrics

__all__ = ["MemoryAware", "WriteReport", "row_cosine", "write_previous", "write_without_scoring"]


class WriteReport(NamedTuple):
    """What a write did to the memory of every row, `[B]`: rms of its change, cosine of its slots with what they were
    (mean over layers and slots; 1 where nothing was written). `balance` is the encoder's router loss, 0 if unwanted."""

    rms: Array
    cosine: Array
    balance: Array

    def metrics(self, interaction: Interaction) -> Metrics:
        """Average over the rows that were written."""
        written = (interaction.previous_valid & interaction.valid).astype(jnp.float32)
        count = jnp.sum(written)
        return {
            "memory/update_rms": (jnp.sum(self.rms * written), count),
            "memory/cosine": (jnp.sum(self.cosine * written), count),
        }


def write_previous(
    model: Any,
    memory: Array,
    interaction: Interaction,
    key: Key | None,
    *,
    gradient: bool = True,
    balanced: bool = False,
) -> tuple[Array, WriteReport]:
    """Write the interaction before this one into memory; also report what that did, `balanced` with the router loss.

    Rows without a predecessor keep their memory. Where no row has one, the encoder does not run
    at all.
    """

    def write(memory: Array) -> tuple[Array, WriteReport]:
        previous = (interaction.previous_ids, interaction.previous_token_mask)
        balance = jnp.float32(0.0)
        if balanced:
            encoded, balance = model.encode_balanced(*previous, key=fold_key(key, 0))
        else:
            encoded = model.encode(*previous, key=fold_key(key, 0))
        updated = model.update_memory(memory, encoded, interaction.previous_token_mask, key=fold_key(key, 1))
        if not gradient:
            updated, balance = jax.lax.stop_gradient((updated, balance))
        updated = keep_rows(interaction.previous_valid, updated, memory)
        old, new = (jax.lax.stop_gradient(each).astype(jnp.float32) for each in (memory, updated))
        rms = jnp.sqrt(jnp.mean((new - old) ** 2, axis=(0, 2, 3)))
        norms = jnp.linalg.norm(new, axis=-1) * jnp.linalg.norm(old, axis=-1)
        cosine = jnp.mean(jnp.sum(new * old, axis=-1) / jnp.maximum(norms, 1e-8), axis=(0, 2))
        return updated, WriteReport(rms, cosine, balance.astype(jnp.float32))

    def keep(memory: Array) -> tuple[Array, WriteReport]:
        rows = memory.shape[1]
        return memory, WriteReport(jnp.zeros(rows, jnp.float32), jnp.ones(rows, jnp.float32), jnp.float32(0.0))

    needed = jnp.any(interaction.previous_valid & interaction.valid)
    return jax.lax.cond(needed, write, keep, memory)


def write_without_scoring(
    model: Any, memory: Array, interaction: Interaction, key: Key | None
) -> tuple[Array, tuple[Array, Metrics]]:
    """Be the objective of a walk that only wants memories: write the interaction before this one, score nothing."""
    return jnp.float32(0.0), (write_previous(model, memory, interaction, key)[0], {})


def row_cosine(memory: Array) -> tuple[Array, Array]:
    """Average the cosine between the memories of different rows over layers and slots, as (sum,
    count).

    Near 1 every conversation has the same memory: the write has collapsed.
    """
    memory = jax.lax.stop_gradient(memory).astype(jnp.float32)
    batch = memory.shape[1]
    norms = jnp.linalg.norm(memory, axis=-1, keepdims=True)
    directions = memory / jnp.maximum(norms, 1e-8)
    # |Σ u|² = B + Σ over the B(B−1) ordered pairs, which spares the B × B products.
    pairs = jnp.sum(jnp.sum(directions, axis=1) ** 2, axis=-1) - batch
    return jnp.mean(pairs) / max(batch * (batch - 1), 1), jnp.float32(batch > 1)


class _Scored(NamedTuple):
    """An interaction with the factors that turn its sums into its share of the loss, and whether to write before it."""

    interaction: Interaction
    answer_factor: Array
    balance_factor: Array
    writes: Array

    @property
    def valid(self) -> Array:
        return self.interaction.valid


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
    remat: str = "full"
    """What of an interaction is kept for the gradient: none (all of it), full (nothing), names or offload."""
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
        return count_answers(labels, self.normalisation)

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
        factors = answer_factors(counts, self.normalisation, self.balance_loss_scale, len(interactions.ids))
        writes = (jnp.arange(len(interactions.ids)) > 0) | (not first_is_written)
        return scan_interactions(
            self._interaction_objective,
            model,
            memory,
            _Scored(interactions, *factors, writes),
            key,
            memory_gradient_steps=self.memory_gradient_steps,
            remat=self.remat,
            start=start,
        )

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

    def _remember(self, model: Any, memory: Array, interactions: Interaction, key: Key | None) -> Array:
        """Write the past of a window without gradient; rows without one keep their initial memory and its gradient."""
        graphdef, params = nnx.split(model)
        still, memory_before = nnx.merge(graphdef, jax.lax.stop_gradient(params)), jax.lax.stop_gradient(memory)
        walk = (write_without_scoring, still, memory_before, interactions, key)
        _, (written, _) = scan_interactions(*walk, remat="none")
        return keep_rows(jnp.any(interactions.previous_valid, axis=0), written, memory)

    def _interaction_objective(
        self, model: Any, memory: Array, scored: _Scored, key: Key | None
    ) -> tuple[Array, tuple[Array, Metrics]]:
        interaction = scored.interaction
        if self.memory_dropout > 0.0 and key is not None:
            memory = self._forget_rows(model, memory, interaction, jax.random.fold_in(key, 2))
        learns_to_write = bool({"encoder", "memory_attention"} & set(self.trainable))
        to_write = interaction._replace(previous_valid=interaction.previous_valid & scored.writes)
        memory, report = write_previous(model, memory, to_write, key, gradient=learns_to_write)
        labels = answer_labels(interaction, self.train_first_interaction)
        answer, balance = read_memory(model, memory, interaction, labels, fold_key(key, 3))
        loss = scored.answer_factor * answer.loss + scored.balance_factor * balance
        return loss, (memory, answer_metrics(answer, balance) | report.metrics(to_write))

    def _forget_rows(self, model: Any, memory: Array, interaction: Interaction, key: Key) -> Array:
        initial = model.initial_memory(memory.shape[1], jax.random.fold_in(key, 0))
        lost = jax.random.bernoulli(jax.random.fold_in(key, 1), self.memory_dropout, (memory.shape[1],))
        return keep_rows(lost & interaction.previous_valid, initial, memory)
