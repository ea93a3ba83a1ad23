"""The value of a conversation's state, for memory reinforcement learning."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from rxt_jax.nn.linear import Linear
from rxt_jax.nn.norms import LayerNorm
from rxt_jax.nn.parameters import constant, make_parameter

__all__ = ["CriticHead"]

_ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "linear": lambda x: x}


class CriticHead(nnx.Module):
    """value = act(W₂ LayerNorm(a ⊙ silu(g))) · scale + shift of the mean state. Source: docs/method.md, eq. 52."""

    def __init__(
        self,
        embed_dim: int,
        *,
        activation: Literal["sigmoid", "tanh", "linear"] = "sigmoid",
        scale: float = 10.0,
        shift: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.gate = Linear({"embed": embed_dim}, {"parts": 2, "mlp": embed_dim}, rngs=rngs)
        self.norm = LayerNorm(embed_dim, rngs=rngs)
        self.value = Linear({"embed": embed_dim}, {"one": 1}, rngs=rngs)
        self.scale = make_parameter(rngs, constant(scale), (), ())
        self.shift = make_parameter(rngs, constant(shift), (), ())

    def __call__(
        self, states: Float[Array, "B T D"], token_mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B"]:
        """Score the last encoder states; without a mask every token counts."""
        real = jnp.ones(states.shape[:2], bool) if token_mask is None else token_mask
        total = jnp.sum(jnp.where(real[..., None], states, 0.0), axis=1)
        pooled = total / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        hidden = self.gate(pooled)
        score = self.value(self.norm(hidden[..., 0, :] * jax.nn.silu(hidden[..., 1, :])))[..., 0]
        return _ACTIVATIONS[self.activation](score) * self.scale[...] + self.shift[...]
