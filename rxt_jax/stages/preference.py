"""DPO and its relatives for models without memory: loss on log-probabilities, token batches, and a trainer.

The losses are those of `losses.preference`; models that remember train by `direct_memory_preference`. Source:
docs/method.md §16.7; names of batch keys, fields and metrics are a contract with users of this trainer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.losses.preference import PairLogProbs, PreferenceConfig, preference_losses
from rxt_jax.losses.sequence_log_probs import LogProbReduction, SequenceLogProbs, projected_sequence_log_probs

__all__ = [
    "DPOConfig",
    "DPOTrainer",
    "TokenPairs",
    "TokenRows",
    "compute_log_probs",
    "dpo_loss",
    "pack_rows",
    "prepare_dpo_batch",
    "token_preference_loss",
]

_POLICY_KEYS = ("chosen_log_probs", "rejected_log_probs")
_REFERENCE_KEYS = ("ref_chosen_log_probs", "ref_rejected_log_probs")
_TEXT_KEYS = ("prompts", "chosen_responses", "rejected_responses")


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """The fields that DPO needs. Source: docs/method.md §16.7."""

    beta: float = 0.1
    """Scale of log-ratios: 0.01 to 0.05 soft, 0.1 usual, 0.5 to 1 sharp."""
    label_smoothing: float = 0.0
    """Share in [0, 0.5) of the pairs that are taken to be swapped."""
    reference_free: bool = False
    """SimPO without a margin: token means and no reference."""
    preference: PreferenceConfig | None = None
    """Any other loss, whose own parameters count then; None = DPO with the fields above."""

    @property
    def loss(self) -> PreferenceConfig:
        """Say it in terms of `losses.preference`."""
        if self.preference is not None:
            return self.preference
        name = "conservative" if self.label_smoothing else "sigmoid"
        return PreferenceConfig(loss=name, beta=self.beta, label_smoothing=self.label_smoothing)

    def __post_init__(self) -> None:
        _ = self.loss  # checks the numbers


class TokenRows(NamedTuple):
    """Prompts with one response each; `loss_mask` is True on the response."""

    ids: Any  # int32 [B T]
    token_mask: Any  # bool [B T]
    loss_mask: Any  # bool [B T]


class TokenPairs(NamedTuple):
    """The same prompts with a chosen and with a rejected response."""

    chosen: TokenRows
    rejected: TokenRows


def dpo_loss(batch: Mapping[str, Any], config: DPOConfig) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Compute the loss and the metrics of four vectors of log-probabilities `[B]`.

    Keys: `chosen_log_probs`, `rejected_log_probs`, and unless `reference_free` `ref_chosen_log_probs`,
    `ref_rejected_log_probs`. Nothing is divided by lengths: reference-free training wants means from the caller.
    """
    needed = _POLICY_KEYS if config.reference_free else _POLICY_KEYS + _REFERENCE_KEYS
    missing = [name for name in needed if name not in batch]
    if missing:
        raise ValueError(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch)}.")
    shapes = {name: np.shape(batch[name]) for name in needed}
    if len(set(shapes.values())) > 1 or len(shapes["chosen_log_probs"]) != 1:
        raise ValueError(f"every vector must have the shape [batch], got {shapes}.")
    chosen, rejected = (jnp.asarray(batch[name], jnp.float32) for name in _POLICY_KEYS)
    zero, one = jnp.zeros_like(chosen), jnp.ones_like(chosen)
    ref_chosen = ref_rejected = zero
    if not config.reference_free:
        ref_chosen, ref_rejected = (jnp.asarray(batch[name], jnp.float32) for name in _REFERENCE_KEYS)
    return _score(PairLogProbs(chosen, rejected, ref_chosen, ref_rejected, one, one), config)


def compute_log_probs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    reduction: LogProbReduction = "sum",
    max_length: int | None = None,
) -> Float[Array, "B"]:
    """Compute log π(response | prompt) of token id lists with a model that has `decode_hidden` and `logits`."""
    return _row_log_probs(model, pack_rows(prompts, responses, max_length)).reduced(reduction)


def prepare_dpo_batch(
    model: Any,
    ref_model: Any,
    prompts: Sequence[Sequence[int]],
    chosen_responses: Sequence[Sequence[int]],
    rejected_responses: Sequence[Sequence[int]],
) -> dict[str, Float[Array, "B"]]:
    """Make the batch of four vectors that `dpo_loss` takes. They carry no gradient: to train, give tokens."""
    found = {
        f"{prefix}{name}_log_probs": compute_log_probs(each, prompts, responses)
        for prefix, each in (("", model), ("ref_", ref_model))
        for name, responses in (("chosen", chosen_responses), ("rejected", rejected_responses))
    }
    return found


def pack_rows(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], max_length: int | None = None
) -> TokenRows:
    """Join prompts and responses, padded on the right; a prompt loses tokens on its left before a response does."""
    if len(prompts) != len(responses) or not prompts:
        raise ValueError(f"every prompt needs one response, got {len(prompts)} prompts and {len(responses)} responses.")
    if not all(prompts):
        raise ValueError("a prompt is empty: the first token of a response is predicted from the prompt's last one.")
    longest = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    length = longest if max_length is None else min(longest, max_length)
    ids = np.zeros((len(prompts), length), np.int32)
    token_mask, loss_mask = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        excess = max(len(prompt) + len(response) - length, 0)
        kept = list(prompt)[min(excess, len(prompt) - 1) :]
        joined = (kept + list(response))[:length]
        ids[row, : len(joined)], token_mask[row, : len(joined)] = joined, True
        loss_mask[row, len(kept) : len(joined)] = True
    return TokenRows(ids, token_mask, loss_mask)


def token_preference_loss(
    model: Any, reference: Any | None, pairs: TokenPairs, config: DPOConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Compute the loss of token rows, differentiable in `model`; `reference` None is reference-free."""
    both = TokenRows(*(jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in zip(*pairs, strict=True)))
    policy = _row_log_probs(model, both)
    frozen = SequenceLogProbs(jnp.zeros_like(policy.total), policy.length)
    if not config.reference_free:
        if reference is None:
            raise ValueError("a reference model is needed unless reference_free.")
        frozen = jax.lax.stop_gradient(_row_log_probs(reference, both))
    reduction: LogProbReduction = "mean" if config.reference_free and config.preference is None else "sum"
    halves = [jnp.split(each.reduced(reduction), 2) for each in (policy, frozen)]
    return _score(PairLogProbs(*halves[0], *halves[1], *jnp.split(policy.length, 2)), config)


class DPOTrainer:
    """Trains a model without memory: `trainer.train_step(batch)` updates `model` and returns metrics.

    `optimizer` is an optax transformation or an `nnx.Optimizer` of the model. The reference is `reference_model`,
    or a copy of the model as it is now. A batch holds tokens, as `TokenPairs` or as a mapping of `prompts`,
    `chosen_responses` and `rejected_responses` (lists of ids). A mapping of log-probabilities (`dpo_loss`) is
    measured but cannot train: numbers have no gradient.
    """

    def __init__(
        self,
        model: Any,
        optimizer: optax.GradientTransformation | nnx.Optimizer,
        config: DPOConfig | None = None,
        *,
        reference_model: Any | None = None,
    ):
        self.model, self.config = model, config or DPOConfig()
        is_nnx = isinstance(optimizer, nnx.Optimizer)
        self.optimizer = optimizer if is_nnx else nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        self.reference_model = reference_model
        if reference_model is None and not self.config.reference_free:
            graphdef, params = nnx.split(model)
            self.reference_model = nnx.merge(graphdef, jax.tree.map(jnp.copy, params))
        self._update = nnx.jit(_update, static_argnames="config")

    def train_step(self, batch: TokenPairs | Mapping[str, Any]) -> dict[str, Float[Array, ""]]:
        """Do one update; return `dpo_loss`, `reward_accuracy`, `chosen_log_ratios`, `rejected_log_ratios`, `margin`."""
        if isinstance(batch, Mapping):
            if any(name in batch for name in _POLICY_KEYS):
                return dpo_loss(batch, self.config)[1]
            missing = [name for name in _TEXT_KEYS if name not in batch]
            if missing:
                raise ValueError(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch) or 'nothing'}.")
            prompts, *answers = (batch[name] for name in _TEXT_KEYS)
            length = max(len(p) + len(r) for each in answers for p, r in zip(prompts, each, strict=True))
            rows = [_widened(pack_rows(prompts, each), length) for each in answers]
            batch = TokenPairs(*rows)
        return self._update(self.model, self.optimizer, self.reference_model, batch, config=self.config)


def _update(model: Any, optimizer: nnx.Optimizer, reference: Any, pairs: TokenPairs, *, config: DPOConfig) -> Any:
    def loss(model: Any) -> tuple[Array, dict[str, Array]]:
        return token_preference_loss(model, reference, pairs, config)

    slopes, metrics = nnx.grad(loss, has_aux=True)(model)
    optimizer.update(model, slopes)
    return metrics


def _row_log_probs(model: Any, rows: TokenRows) -> SequenceLogProbs:
    ids, token_mask, loss_mask = (jnp.asarray(each) for each in rows)
    hidden, _ = model.decode_hidden(ids, token_mask)
    return projected_sequence_log_probs(model.logits, hidden, ids, loss_mask)


def _score(pair: PairLogProbs, config: DPOConfig) -> tuple[Array, dict[str, Array]]:
    loss = jnp.mean(preference_losses(pair, config.loss))
    chosen, rejected = pair.chosen - pair.ref_chosen, pair.rejected - pair.ref_rejected
    metrics = {
        "dpo_loss": loss,
        "reward_accuracy": jnp.mean(chosen > rejected, dtype=jnp.float32),
        "chosen_log_ratios": jnp.mean(chosen),
        "rejected_log_ratios": jnp.mean(rejected),
        "margin": jnp.mean(chosen - rejected),
    }
    return loss, metrics


def _widened(rows: TokenRows, length: int) -> TokenRows:
    return TokenRows(*(np.pad(each, ((0, 0), (0, length - each.shape[1]))) for each in rows))
