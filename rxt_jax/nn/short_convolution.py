"""A short convolution over tokens: a token also sees its neighbours before it attends.

y_t = x_t + Σ_j w_j ⊙ x_{t − j}

with a weight per channel for every offset j ≠ 0. One layer of attention can then look for what followed a word, for
which it otherwise takes two. Source: docs/method.md §10.8; what it is worth: benchmarks/toy.md.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.nn.parameters import make_parameter, normal
from rxt_jax.ops.columns import take_columns

__all__ = ["ShortConvolution", "ShortConvolutionConfig", "check_causal", "go_on", "neighbours"]


@dataclass(frozen=True, kw_only=True)
class ShortConvolutionConfig:
    """Which neighbours a token sees, before self-attention and before the feed-forward of every layer."""

    before: int = 1
    """Tokens before it."""
    after: int = 0
    """Tokens behind it; 0 where text is made from left to right."""
    weights_std: float = 0.3
    """Standard deviation of the neighbours' weights at the start; a token itself is always multiplied by 1. Weights
    that differ from channel to channel tell neighbours apart."""

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.weights_std < 0.0:
            raise ValueError(f"weights_std must be at least 0, got {self.weights_std}.")
        if not self.offsets:
            raise ValueError("a short convolution needs neighbours: before or after must be at least 1.")

    @property
    def offsets(self) -> tuple[int, ...]:
        """How many tokens before a token its neighbours are; those behind it have negative numbers."""
        return (*range(1, self.before + 1), *range(-1, -self.after - 1, -1))


def check_causal(name: str, config: ShortConvolutionConfig | None) -> None:
    """Refuse neighbours that are not there yet where text is made from left to right."""
    if config is not None and config.after:
        raise ValueError(f"{name}.after must be 0, because an answer is made from left to right; got {config.after}.")


class ShortConvolution(nnx.Module):
    """Add weighted neighbours to every token; padding and the other documents of a packed row are none."""

    def __init__(self, embed_dim: int, config: ShortConvolutionConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (len(config.offsets), embed_dim)
        self.weights = make_parameter(rngs, normal(config.weights_std), shape, ("neighbours", "embed"))

    def __call__(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B1 T"], token_mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Convolve whole rows."""
        tokens, weights = jnp.where(token_mask[..., None], x, 0.0), self.weights[...].astype(x.dtype)
        for number, offset in enumerate(self.config.offsets):
            x = x + weights[number] * neighbours(tokens, offset, positions)
        return x

    def step(
        self, x: Float[Array, "B T D"], token_mask: Bool[Array, "B T"], last: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
        """Convolve right-padded tokens that follow the `last` N = `before` ones; return the new last ones too."""
        length, weights = x.shape[1], self.weights[...].astype(x.dtype)
        row, new_last = go_on(last, x, token_mask)
        for number, offset in enumerate(self.config.offsets):
            start = self.config.before - offset
            x = x + weights[number] * row[:, start : start + length]
        return x, new_last


def neighbours(x: Float[Array, "B T D"], offset: int, positions: Int[Array, "B1 T"]) -> Float[Array, "B T D"]:
    """Give every token of a whole row the one that is `offset` before it, or behind it where that is negative.

    A neighbour is as far away by its position as by its column; where there is none it is 0.
    """
    near = _moved(positions, offset) + offset == positions
    return jnp.where(near[..., None], _moved(x, offset), 0.0)


def go_on(
    last: Float[Array, "B N D"], x: Float[Array, "B T D"], token_mask: Bool[Array, "B T"]
) -> tuple[Float[Array, "B columns D"], Float[Array, "B N D"]]:
    """Put the last N tokens before right-padded new ones; return these N + T columns, and the last N of the real ones.

    Rows that begin have zeros in `last`.
    """
    row = jnp.concatenate([last.astype(x.dtype), x], axis=1)
    count = jnp.sum(token_mask, axis=1, dtype=jnp.int32)
    return row, take_columns(row, count[:, None] + jnp.arange(last.shape[1])).astype(last.dtype)


def _moved(x: Array, offset: int) -> Array:
    """Give every column what is `offset` columns before it, 0 beyond the ends."""
    length, rest = x.shape[1], [(0, 0)] * (x.ndim - 2)
    if abs(offset) >= length:
        return jnp.zeros_like(x)
    if offset > 0:
        return jnp.pad(x[:, : length - offset], [(0, 0), (offset, 0), *rest])
    return jnp.pad(x[:, -offset:], [(0, 0), (0, -offset), *rest])
