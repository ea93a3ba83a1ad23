"""Stage 5, DMPO: preferences between answers, conditioned on memory, with the gradient through memory.

    memory i−1, chosen interaction i−1 ──▶ encode ──▶ update_memory ──▶ memory i
    memory i, query i + {chosen, rejected, neutral} answer ──▶ decode ──▶ log-probabilities ──▶ loss

Memory is written by chosen answers alone and never holds the answer that it scores. All memories of an episode
are made first; then the decoder reads them, the answers to one query side by side. The reference is a frozen copy
of the parameters that train. Source: docs/method.md §16.2, §16.3 and §16.6.
"""

import functools
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rxt_jax.compatibility import PreferenceCompatibility
from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.loader import Batches, PreferenceBatches
from rxt_jax.losses.preference import PreferenceConfig, preference_losses
from rxt_jax.losses.sequence_log_probs import LogProbReduction, SequenceLogProbs
from rxt_jax.model import ModelConfig
from rxt_jax.model.episode import fold_key
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.model.operation_count import count_operations, forward_passes
from rxt_jax.nn.remat import check_remat
from rxt_jax.stages.answer_pairs import answer_pairs, answer_sums, by_interaction, neutral_drift
from rxt_jax.stages.answer_scoring import Answers, Scored, answers_of, score_answers
from rxt_jax.stages.memory_writing import WriteReport, row_cosine, write_memories
from rxt_jax.stages.precomputed_reference import precompute_reference
from rxt_jax.stages.stage import Beginning, EpisodeStage, Reading, Rebuild
from rxt_jax.types import Array, Key, Metrics, PreferenceBatch

__all__ = ["DirectMemoryPreference", "Memories", "ReferenceKind"]

ReferenceKind = Literal["decoder", "full", "precomputed", "none"]
"""Frozen decoder reading the policy's memory (published), frozen model with a memory chain of its own, the same
computed once before training and kept in a file (`stages.precomputed_reference`), or none."""


_SMOOTHED = ("conservative", "robust", "simpo", "exo_pair", "aot", "aot_unpaired")


class Memories(NamedTuple):
    """What is carried from interaction to interaction; `reference` is None unless it has a chain of its own."""

    policy: Array
    reference: Array | None


@dataclass(frozen=True, kw_only=True)
class DirectMemoryPreference(EpisodeStage):
    """Options of DMPO. Source: docs/method.md §16.2 and §16.3."""

    kind = "direct_memory_preference"
    rows = PreferenceBatches

    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """The loss of a pair."""
    mixture: tuple[tuple[PreferenceConfig, float], ...] = ()
    """Several losses with their weights in place of `preference`; empty = that one alone."""
    logprob_reduction: LogProbReduction = "sum"
    """How the log-probabilities of an answer's tokens become one number."""
    length_desensitisation: float | None = None
    """α in [0, 1] of LD-DPO: of the longer answer of a pair the tokens beyond the shorter one's length count α, in
    policy and reference alike, wherever their log-probabilities are used. None = all count 1."""
    reference: ReferenceKind = "decoder"
    """What the policy is compared with."""
    reference_sync_every: int | None = None
    """Updates after which the reference moves towards the policy; None = never."""
    reference_sync_rate: float = 0.6
    """Share of the way that it moves then, α of eq. 85."""
    memory_gradient_steps: int | None = None
    """Memory writes that a gradient may cross; None = all of the episode."""
    interactions_per_update: int | None = None
    """Interactions of a window, after each of which the optimizer updates; None = the whole episode."""
    normalisation: Literal["interaction_sum", "interaction_mean"] = "interaction_sum"
    """Whether the mean losses of the interactions add up, as in the theory, or are averaged over interactions."""
    anchor_weight: float = 0.0
    """Weight of |log π − log π_ref| of neutral answers (anchored DMPO); a row without one adds nothing. 0 = off."""
    sft_weight: float = 0.0
    """Weight of the mean token loss of chosen answers; 0 = off."""
    balance_loss_scale: float = 0.001
    """Factor of the router losses of encoder and decoder; a dense model has none."""
    interactions_per_call: int = 2
    """Interactions of a row that one call of encoder or decoder reads; calls that no row needs are skipped."""
    remat: str = "full"
    """What of what writes memory is kept for the gradient: none (all of it), full (nothing), names or offload."""
    compatibility: PreferenceCompatibility = field(default_factory=PreferenceCompatibility)
    """Published behaviour, off by default."""
    trainable: tuple[str, ...] = (
        "embedding",
        "encoder",
        "decoder",
        "cross_attention",
        "memory_attention",
        "learned_memory",
    )
    """Parameter groups that train. Without "encoder" or "memory_attention" memory is written without gradient."""
    unfreeze: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Pairs of an update and the groups that stand still before it."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
        for name in ("memory_gradient_steps", "interactions_per_update", "reference_sync_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be None or at least 1, got {value}.")
        if self.interactions_per_call < 1:
            raise ValueError(f"interactions_per_call must be at least 1, got {self.interactions_per_call}.")
        for name in ("anchor_weight", "sft_weight", "balance_loss_scale"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.length_desensitisation is not None and not 0.0 <= self.length_desensitisation <= 1.0:
            raise ValueError(f"length_desensitisation must lie in [0, 1], got {self.length_desensitisation}.")
        if self.reference_sync_every is not None and self.reference in ("precomputed", "none"):
            raise ValueError(f"reference={self.reference!r} cannot be synchronised. Use 'decoder' or 'full'.")
        for config, _ in self.losses:
            if self.logprob_reduction == "mean" and config.beta < 0.5:
                warnings.warn(
                    f"beta = {config.beta} with logprob_reduction='mean' hardly prefers anything: means are smaller "
                    f"than sums by the length of an answer. Usual: 1 to 10.",
                    stacklevel=3,
                )
            if config.label_smoothing and config.loss not in _SMOOTHED:
                raise ValueError(f"{config.loss} has no label smoothing, got {config.label_smoothing}.")
            if config.loss in ("aot", "aot_unpaired"):
                raise ValueError(f"{config.loss} sorts the pairs of a batch, which masked interactions do not allow.")
            if config.loss in ("ipo", "sigmoid_norm", "simpo", "orpo", "sft") and self.logprob_reduction != "sum":
                raise ValueError(f"{config.loss} divides by the length itself. Use logprob_reduction='sum'.")
        if self.logprob_reduction not in get_args(LogProbReduction):
            known = ", ".join(get_args(LogProbReduction))
            raise ValueError(f"logprob_reduction must be one of {known}, got {self.logprob_reduction!r}.")

    @property
    def losses(self) -> tuple[tuple[PreferenceConfig, float], ...]:
        """List the losses with their weights; `sigmoid` with label smoothing is `conservative`, as published."""
        given = self.mixture or ((self.preference, 1.0),)
        return tuple(
            (replace(each, loss="conservative") if each.loss == "sigmoid" and each.label_smoothing else each, weight)
            for each, weight in given
        )

    @property
    def _writes_itself_first(self) -> bool:
        """Whether every interaction, the first one included, is in the memory that scores it."""
        return self.compatibility.memory_rule == "first_described"

    @property
    def reference_groups(self) -> tuple[str, ...]:
        """Name the parameter groups that the reference has a copy of, those that train."""
        groups = {
            "none": (),
            "precomputed": (),
            "decoder": ("embedding", "decoder", "cross_attention"),
            "full": ("embedding", "encoder", "decoder", "cross_attention", "memory_attention", "learned_memory"),
        }
        return tuple(group for group in groups[self.reference] if group in self.trainable)

    def batches(self, reading: Reading) -> Batches:
        """Read preferences, with a precomputed reference's log-probabilities of them."""
        reference = precompute_reference(self, reading) if self.reference == "precomputed" else None
        return reading.batches(self.rows, reference=reference)

    def held_out(self, data: DataConfig) -> DataSource:
        """Choose held-out preferences."""
        return data.held_out_preferences or data.evaluation_source

    def first_carry(self, beginning: Beginning) -> dict[str, Array]:
        """Copy the parameters that the reference has of its own (path → array); the others it shares."""
        groups = beginning.groups
        return {path: value for group in self.reference_groups for path, value in groups.get(group, {}).items()}

    def next_carry(
        self, carry: dict[str, Array], batch: Any, trained: dict[str, Array], update: Array
    ) -> dict[str, Array]:
        """Move the reference towards the policy when it is due: ref ← α θ + (1 − α) ref."""
        if self.reference_sync_every is None:
            return carry
        rate = jnp.where(update % self.reference_sync_every == 0, self.reference_sync_rate, 0.0)
        return {path: value + rate * (trained[path] - value) for path, value in carry.items()}

    def objective_arguments(self, carry: dict[str, Array], rebuild: Rebuild) -> dict[str, Any]:
        """Make the model that the policy is compared with."""
        return {"reference": rebuild(carry)} if self.reference in ("decoder", "full") else {}

    def interactions(self, batch: PreferenceBatch) -> Answers:
        """Prepare a batch for the engine; the memory rule says which row is written before each interaction."""
        answers = answers_of(batch, neutral=self.anchor_weight > 0.0)
        if self.compatibility.memory_rule == "causal":
            return answers
        chosen = answers.interaction
        late = self._writes_itself_first or jnp.arange(len(chosen.valid))[:, None] > 0
        written = chosen._replace(
            previous_ids=chosen.ids,
            previous_token_mask=chosen.token_mask,
            previous_valid=chosen.valid & late,
        )
        return answers._replace(interaction=written)

    def begin(self, model: Any, batch_size: int, key: Key | None, *, reference: Any = None) -> Memories:
        """Give the memories at the start of an episode; without a key always the same ones."""
        # The same draw for both: where memory starts at random they start alike.
        policy = beginning_memory(model, batch_size, key)
        if self.reference != "full" or reference is None:
            return Memories(policy, None)
        return Memories(policy, beginning_memory(reference, batch_size, key))

    def label_counts(self, batch: PreferenceBatch | Answers) -> dict[str, Array]:
        """Count pairs and chosen tokens per interaction, `[I]`, interactions that have any, and memory writes."""
        answers = batch if isinstance(batch, Answers) else self.interactions(batch)
        pairs = jnp.sum(answers.paired, axis=1, dtype=jnp.float32)
        tokens = jnp.sum(answers.loss_mask[:, :, 0, 1:], dtype=jnp.float32)
        writes = jnp.any(answers.interaction.previous_valid & answers.valid, axis=1)
        return {
            "pairs": pairs,
            "tokens": tokens,
            "calls": jnp.sum(pairs > 0, dtype=jnp.float32),
            "writes": jnp.sum(writes, dtype=jnp.float32),
        }

    def objective(
        self,
        model: Any,
        batch: PreferenceBatch,
        key: Key | None,
        counts: dict[str, Array],
        *,
        reference: Any = None,
    ) -> tuple[Array, Metrics]:
        """Score a batch of whole episodes; `counts` are the label counts of the whole update."""
        memory = self.first_memory(model, batch, key, reference=reference)
        answers = self.interactions(batch)
        loss, (memory, metrics) = self.window_objective(model, memory, answers, key, counts, reference=reference)
        return loss, metrics | {"memory/row_cosine": row_cosine(memory.policy)}

    def window_objective(
        self,
        model: Any,
        memory: Memories,
        answers: Answers,
        key: Key | None,
        counts: dict[str, Array],
        *,
        start: int | Array = 0,
        reference: Any = None,
    ) -> tuple[Array, tuple[Memories, Metrics]]:
        """Score a window of interactions that starts with `memory`; return the memories after it."""
        if (reference is None) != (self.reference in ("none", "precomputed")):
            raise ValueError(
                f"reference={self.reference!r} wants {'no' if reference is not None else 'a'} reference model."
            )
        chain = functools.partial(self._chain, answers=answers, start=start)
        memories, written = chain(model, memory.policy, key)
        before = jnp.concatenate([memory.policy[None], memories[:-1]])
        read_by_reference = jax.lax.stop_gradient(before if self._writes_itself_first else memories)
        after = Memories(memories[-1], memory.reference)
        if memory.reference is not None:
            read_by_reference, _ = chain(reference, memory.reference, None)
            read_by_reference = jax.lax.stop_gradient(read_by_reference)
            after = after._replace(reference=read_by_reference[-1])

        # Scored before the policy: then its loss is known call by call, and so is its gradient.
        frozen = jnp.zeros(answers.ids.shape[:3], jnp.float32)
        if self.reference == "precomputed":
            if answers.reference is None:
                raise ValueError("reference='precomputed' wants batches that carry the reference's log-probabilities.")
            frozen = answers.reference
        elif reference is not None:
            frozen = jax.lax.stop_gradient(self._score(reference, read_by_reference, answers, None).answers.total)
        factors = jnp.broadcast_to(self._factors(counts)[:, None], answers.paired.shape)
        # Far from the interactions' keys, and another one for every window of an episode.
        loss, policy, balance = self._score(
            model,
            memories,
            answers,
            fold_key(key, (1 << 20) + start),
            loss=functools.partial(self._loss_of_call, counts=counts),
            rows=(frozen, answers.paired, answers.anchored, factors),
        )
        encoder_balance = jnp.sum(written.balance)
        loss = loss + self.balance_loss_scale * encoder_balance / jnp.maximum(counts["writes"], 1.0)
        balances = {
            "router/balance": (balance, counts["calls"]),
            "router/encoder_balance": (encoder_balance, counts["writes"]),
        }
        metrics = written.metrics(answers.interaction) | answer_sums(
            policy, frozen, answers, self.losses, self.logprob_reduction
        )
        return loss, (after, by_interaction(metrics) | balances)

    def operations(self, config: ModelConfig, batch: PreferenceBatch) -> float:
        """Count an update's operations, those of a reference that runs beside the policy included."""
        kinds = (batch.chosen, batch.rejected, batch.neutral)[: 3 if self.anchor_weight > 0.0 else 2]
        interactions, rows, length = batch.chosen.ids.shape
        one = count_operations(config, length)
        scored = sum(float(np.sum(kind.loss_mask[..., 1:] & kind.valid[..., None])) for kind in kinds)
        read = rows * interactions * len(kinds) * one.read + scored * one.head
        write = rows * (interactions - 1) * (one.encode + one.write)
        reference = {"decoder": read, "full": read + write}.get(self.reference, 0.0)
        return forward_passes(True) * read + forward_passes(self._learns_to_write) * write + reference

    @property
    def _learns_to_write(self) -> bool:
        return bool({"encoder", "memory_attention"} & set(self.trainable))

    def reference_scores(self, model: Any, batch: PreferenceBatch) -> Array:
        """Score all three answers with a memory chain of the model's own, `[I B 3]`: what 'precomputed' reads."""
        answers = answers_of(batch, neutral=True)
        memory = self.begin(model, batch.chosen.ids.shape[1], None)
        memories, _ = self._chain(model, memory.policy, None, answers=answers, start=0)
        return self._score(model, memories, answers, None).answers.total

    def _chain(
        self, model: Any, memory: Array, key: Key | None, *, answers: Answers, start: int | Array
    ) -> tuple[Array, WriteReport]:
        """Make the memories that the answers are scored with, `[I L B S D]`, and say what the writes did."""
        return write_memories(
            model,
            memory,
            answers.interaction,
            key,
            gradient=self._learns_to_write,
            memory_gradient_steps=self.memory_gradient_steps,
            interactions_per_call=self.interactions_per_call,
            remat=self.remat,
            # A rule that writes at interaction 0 already has its second write one earlier.
            start=start + 1 if self._writes_itself_first else start,
            skips_first=isinstance(start, int) and start == 0 and not self._writes_itself_first,
        )

    def _score(self, model: Any, memories: Array, answers: Answers, key: Key | None, **options: Any) -> Scored:
        return score_answers(
            model,
            memories,
            answers,
            key,
            interactions_per_call=self.interactions_per_call,
            length_desensitisation=self.length_desensitisation,
            **options,
        )

    def _factors(self, counts: dict[str, Array]) -> Array:
        """Say what a pair of every interaction counts, `[I]`."""
        factors = 1.0 / jnp.maximum(counts["pairs"], 1.0)
        return factors / jnp.maximum(counts["calls"], 1.0) if self.normalisation == "interaction_mean" else factors

    def _loss_of_call(
        self, policy: SequenceLogProbs, balance: Array, rows: tuple[Array, ...], counts: dict[str, Array]
    ) -> Array:
        """Turn log-probabilities `[c B k]` into their share of the loss (docs/method.md, eq. 84)."""
        frozen, paired, anchored, factors = rows
        pair = answer_pairs(policy, frozen, self.logprob_reduction)
        each = jax.vmap(lambda pair: preference_losses(pair, self.losses))(pair)
        loss = jnp.sum(jnp.where(paired, each, 0.0) * factors)
        if self.anchor_weight:
            drift = neutral_drift(policy, frozen, anchored, self.logprob_reduction)
            loss = loss + self.anchor_weight * jnp.sum(drift * factors)
        loss = loss - self.sft_weight * jnp.sum(policy.total[..., 0]) / jnp.maximum(counts["tokens"], 1.0)
        return loss + self.balance_loss_scale * balance / jnp.maximum(counts["calls"], 1.0)
