"""A short convolution over tokens: a token also sees its neighbours before it attends.

y_t = x_t + Σ_j w_j ⊙ x_{t − j}

with a weight per channel for every offset j ≠ 0. One layer of attention can then look for what followed a word, for
which it otherwise takes two. Source: docs/method.md §10.8; what it is worth: benchmarks/toy.md.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.nn.parameters import constant, make_parameter
from rxt_jax.ops.columns import take_columns

__all__ = ["ShortConvolution", "ShortConvolutionConfig", "check_causal"]


@dataclass(frozen=True, kw_only=True)
class ShortConvolutionConfig:
    """Which neighbours a token sees, before self-attention and before the feed-forward of every layer."""

    before: int = 1
    """Tokens before it."""
    after: int = 0
    """Tokens behind it; 0 where text is made from left to right."""
    initial: float = 0.2
    """What a neighbour is multiplied by at first, in every channel; a token itself is always multiplied by 1."""

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
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
    """Add weighted neighbours to every token; padding and the other documents of a packed row are no neighbours."""

    def __init__(self, embed_dim: int, config: ShortConvolutionConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (len(config.offsets), embed_dim)
        self.weights = make_parameter(rngs, constant(config.initial), shape, ("neighbours", "embed"))

    def __call__(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B1 T"], token_mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Convolve whole rows. A neighbour is a token whose position is as far away as its column."""
        length, weights = x.shape[1], self.weights[...].astype(x.dtype)
        tokens = jnp.where(token_mask[..., None], x, 0.0)
        for number, offset in enumerate(self.config.offsets):
            distance = _moved(positions, offset, length) + offset == positions
            near = jnp.where(distance[..., None], _moved(tokens, offset, length), 0.0)
            x = x + weights[number] * near
        return x

    def step(
        self, x: Float[Array, "B T D"], token_mask: Bool[Array, "B T"], last: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N D"]]:
        """Convolve right-padded tokens that follow the `last` N = `before` ones; return the new last ones too.

        Rows that begin have zeros in `last`.
        """
        before, length, weights = self.config.before, x.shape[1], self.weights[...].astype(x.dtype)
        row = jnp.concatenate([last.astype(x.dtype), x], axis=1)
        for number, offset in enumerate(self.config.offsets):
            x = x + weights[number] * row[:, before - offset : before - offset + length]
        count = jnp.sum(token_mask, axis=1, dtype=jnp.int32)
        return x, take_columns(row, count[:, None] + jnp.arange(before)).astype(last.dtype)


def _moved(x: Array, offset: int, length: int) -> Array:
    """Give every column what is `offset` columns before it, 0 beyond the ends."""
    if abs(offset) >= length:
        return jnp.zeros_like(x)
    rest = [(0, 0)] * (x.ndim - 2)
    if offset > 0:
        return jnp.pad(x[:, : length - offset], [(0, 0), (offset, 0), *rest])
    return jnp.pad(x[:, -offset:], [(0, 0), (0, -offset), *rest])
