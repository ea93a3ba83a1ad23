"""What rollouts and rewards have to know of a tokenizer."""

import jax.numpy as jnp

from rxt_jax.data.special_tokens import ABSENT
from rxt_jax.data.template import OUTPUT_BLOCKS
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.rewards import RewardContext
from rxt_jax.stages.rollout import SpecialIds
from rxt_jax.types import Array

__all__ = ["make_context", "special_ids"]


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """List the control tokens that a rollout has to know."""
    special = tokenizer.special
    openings = tuple(getattr(special, name) for name in OUTPUT_BLOCKS)
    return SpecialIds(special.eos, special.pad, tuple(each for each in openings if each != ABSENT))


def make_context(tokenizer: Tokenizer, table: Array | None = None) -> RewardContext:
    """Write what rewards have to know of a tokenizer as arrays."""
    size = tokenizer.vocab_size
    special = jnp.isin(jnp.arange(size), jnp.array(sorted(tokenizer.special.names)))
    nothing = jnp.zeros(size, bool)
    return RewardContext(special, jnp.int32(tokenizer.special.eos), nothing, nothing, table)
