"""What rewards have to know of a tokenizer and of a model."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.rewards.planted_facts import encode_abstentions
from rxt_jax.rewards.reward import Facts, RewardContext
from rxt_jax.types import Array

__all__ = ["embedding_table", "make_reward_context"]


def make_reward_context(
    tokenizer: Tokenizer, embedding: Array | None = None, *, abstentions: bool = False
) -> RewardContext:
    """Make the context of rewards; `AbstentionReward` needs its `abstentions`.

    `embedding` `[V D]` is the table that similarity is measured with; it is copied, so that training the model that it
    comes from does not move the reward. A stage that wants the live table replaces `context.embedding` in every update.
    """
    table = tokenizer.token_bytes
    if embedding is not None and (embedding.ndim != 2 or embedding.shape[0] < len(table)):
        raise ValueError(
            f"embedding must have one row per token of the tokenizer, which has {len(table)}, "
            f"got shape {list(embedding.shape)}."
        )
    special = np.zeros(len(table), bool)
    special[list(tokenizer.special.names)] = True
    first = np.array([bool(piece) and _in_word(piece[0]) for piece in table])
    last = np.array([bool(piece) and _in_word(piece[-1]) for piece in table])
    return RewardContext(
        special=jnp.asarray(special),
        end_id=jnp.int32(tokenizer.special.eos),
        letter_first=jnp.asarray(first),
        letter_last=jnp.asarray(last),
        abstentions=Facts(*map(jnp.asarray, encode_abstentions(tokenizer))) if abstentions else None,
        embedding=None if embedding is None else jnp.array(embedding, jnp.float32, copy=True),
    )


def embedding_table(model: Any) -> Array:
    """Return the token embeddings `[V D]` of a model, which encoder and decoder share."""
    return model.embedding.table[...]


def _in_word(byte: int) -> bool:
    """Whether a byte is part of a letter, a digit or an underscore, as words of any script are written in UTF-8."""
    return byte >= 0x80 or chr(byte).isalnum() or chr(byte) == "_"
