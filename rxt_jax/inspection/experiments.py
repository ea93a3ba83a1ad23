"""Causal experiments: what an answer loses when it reads a memory of which one slot, or one layer, is another.

    erase    zeros (all slots: the condition `zeroed` of an evaluation)
    freeze   what stood there after the first interaction (all slots: `frozen`)
    swap     what stands there in another conversation at the same turn (all slots: `shuffled`)

Only what the decoder reads is changed, as in an evaluation: what is written later is written from the true memory.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.losses.token_log_probs import next_token_log_probs
from rxt_jax.types import Array

__all__ = ["EXPERIMENTS", "Effects", "Experiment", "changed_log_probs", "measure_effects", "one_at_a_time"]

Experiment = Literal["erase", "freeze", "swap"]
EXPERIMENTS: tuple[Experiment, ...] = ("erase", "freeze", "swap")


class Effects(NamedTuple):
    """Changes of an answer's log-probability in nats, below 0 where the answer loses: each slot alone `[L S]`, each
    layer alone `[L]`, and all slots together."""

    slots: np.ndarray
    layers: np.ndarray
    everything: float


def measure_effects(
    graphdef: Any,
    params: Any,
    memory: Array,
    replacement: Array,
    ids: Array,
    token_mask: Array,
    scored: Array,
    *,
    tokens_per_call: int = 8192,
) -> Effects:
    """Put parts of `replacement` `[L 1 S D]` into `memory` `[L 1 S D]`, and score an answer against each.

    ids, token_mask, scored `[1 T]`: the row with its answer, its real tokens, and the tokens whose log-probabilities
    add up.
    """
    layers, _, slots, _ = memory.shape
    chosen = np.concatenate([np.zeros((1, layers, slots), bool), one_at_a_time(layers, slots)])
    sums = changed_log_probs(
        graphdef, params, memory, replacement, ids, token_mask, scored, chosen, tokens_per_call=tokens_per_call
    )
    change = sums[1:] - sums[0]
    count = layers * slots
    return Effects(change[:count].reshape(layers, slots), change[count:-1], float(change[-1]))


def one_at_a_time(layers: int, slots: int) -> np.ndarray:
    """Choose every slot alone, then every layer alone, then everything: `[L·S + L + 1, L, S]`."""
    single = np.eye(layers * slots, dtype=bool).reshape(-1, layers, slots)
    whole = np.broadcast_to(np.eye(layers, dtype=bool)[:, :, None], (layers, layers, slots))
    return np.concatenate([single, whole, np.ones((1, layers, slots), bool)])


def changed_log_probs(
    graphdef: Any,
    params: Any,
    memory: Array,
    replacement: Array,
    ids: Array,
    token_mask: Array,
    scored: Array,
    chosen: np.ndarray,
    *,
    tokens_per_call: int = 8192,
) -> np.ndarray:
    """Score an answer against N memories, each with the slots of `chosen` `[N L S]` replaced: sums of its
    log-probabilities `[N]`."""
    rows = min(max(tokens_per_call // ids.shape[1], 1), len(chosen))
    padded = np.concatenate([chosen, np.zeros((-len(chosen) % rows, *chosen.shape[1:]), bool)])
    calls = padded.reshape(-1, rows, *chosen.shape[1:])
    sums = _score(graphdef, params, memory, replacement, ids, token_mask, scored, calls)
    return np.asarray(sums).reshape(-1)[: len(chosen)]


@functools.partial(jax.jit, static_argnums=0)
def _score(
    graphdef: Any, params: Any, memory: Array, replacement: Array, ids: Array, mask: Array, scored: Array, calls: Array
) -> Array:
    model = nnx.merge(graphdef, params)

    def score(carry: None, chosen: Array) -> tuple[None, Array]:
        memories = jnp.where(jnp.moveaxis(chosen, 0, 1)[..., None], replacement, memory)
        rows, masks, targets = (jnp.repeat(each, len(chosen), axis=0) for each in (ids, mask, scored))
        hidden, _ = model.decode_hidden(rows, masks, memories)
        return carry, jnp.sum(next_token_log_probs(model.logits, hidden, rows, targets).log_probs, axis=1)

    return jax.lax.scan(score, None, calls)[1]
