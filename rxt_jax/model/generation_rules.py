"""How the rows of a generation go on and when they end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rxt_jax.ops.sampling import Sampling
from rxt_jax.types import Key, ShapedArray

__all__ = ["Rules", "SamplingConfig", "join_rules", "make_rules"]

_CHOICES = 2  # ids among which a first token can be chosen


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen. The default is greedy. Source: docs/method.md §12."""

    temperature: float | None = None
    """What logits are divided by, above 0; None = greedy, always the likeliest token."""
    top_k: int = 0
    """Likeliest tokens that may be drawn, ties at the last place included; 0 = all."""
    top_p: float = 1.0
    """Share in (0, 1] of the probability that the tokens which may be drawn have together; 1 = all."""
    min_p: float = 0.0
    """Tokens less likely than this share in [0, 1) of the likeliest one are never drawn; 0 = all may be."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}. Use None for greedy.")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}. Use 0 to switch it off.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}. Use 1 to switch it off.")
        if not 0.0 <= self.min_p < 1.0:
            raise ValueError(f"min_p must lie in [0, 1), got {self.min_p}. Use 0 to switch it off.")

    def rows(self, batch: int) -> Sampling:
        """Write the settings as arrays of `batch` equal rows."""
        return Sampling(
            temperature=np.full(batch, self.temperature or 0.0, np.float32),
            top_k=np.full(batch, self.top_k, np.int32),
            top_p=np.full(batch, self.top_p, np.float32),
            min_p=np.full(batch, self.min_p, np.float32),
        )


class Rules(NamedTuple):
    """What a generation obeys, row by row; arrays, so that rows may differ and another value compiles nothing.

    A row makes at most `limit` tokens, none where that is 0. `first` holds the ids among which the likelier is its
    first token; an id that stands alone is forced, and −1 in all places lets the model choose freely. Token n is
    drawn from `key` and n.
    """

    sampling: Sampling
    limit: ShapedArray  # int32 [B]
    first: ShapedArray  # int32 [B 2]
    key: ShapedArray  # PRNG key [B]


def make_rules(
    batch: int,
    key: Key,
    *,
    sampling: SamplingConfig | None = None,
    limit: int | None = None,
    first: Sequence[int] = (),
) -> Rules:
    """Make the rules of `batch` rows that differ in their keys alone; row b has `key` folded with b.

    Without `sampling` they are greedy, without a `limit` only the width of a generation ends them; `first` is at most
    two ids.
    """
    if len(first) > _CHOICES:
        raise ValueError(f"the first token can be chosen among {_CHOICES} ids at most, got {len(first)}.")
    choices = (*first, *[-1] * (_CHOICES - len(first)))
    return Rules(
        sampling=(sampling or SamplingConfig()).rows(batch),
        limit=np.full(batch, np.iinfo(np.int32).max if limit is None else limit, np.int32),
        first=np.tile(np.array(choices, np.int32), (batch, 1)),
        key=jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch)),
    )


def join_rules(rules: Sequence[Rules]) -> Rules:
    """Put the rows of several rules behind one another: one batch of rows that differ."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *rules)
