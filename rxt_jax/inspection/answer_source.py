"""What memory is worth to every answer of a conversation: its log-probability, and that with memory zeroed."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rxt_jax.data.config import DataConfig
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.inspection.experiments import changed_log_probs
from rxt_jax.inspection.walker import Walker

__all__ = ["memory_worth"]


def memory_worth(model: Any, tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], data: DataConfig) -> list[float]:
    """Measure what every answer loses, in nats, when it is read from zeros instead of memory; below 0 it gains.

    turns: query and answer of each. `data` says how rows are made.
    """
    walker = Walker(model, tokenizer, data)
    episode = {"interactions": [{"query": query, "answer": answer} for query, answer in turns]}
    layers, _, slots, _ = walker.start.shape
    zeros, erased = jnp.zeros_like(walker.start), np.array([False, True])
    chosen = np.broadcast_to(erased[:, None, None], (2, layers, slots))
    worth = []
    for (_, row), memory in zip(walker.rows(episode), walker.memories_of(episode), strict=False):
        assert row is not None  # every turn has its answer
        sums = changed_log_probs(walker.graphdef, walker.params, memory, zeros, *walker.arrays(row), chosen)
        worth.append(float(sums[0] - sums[1]))
    return worth
