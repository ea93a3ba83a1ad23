"""The dense feed-forward layer, plain or gated (GLU)."""

from dataclasses import dataclass

from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.nn.linear import Linear
from rxt_jax.nn.remat import named_activation
from rxt_jax.ops.activations import Activation, activation_function
from rxt_jax.ops.dropout import dropout
from rxt_jax.types import Key

__all__ = ["FeedForward", "FeedForwardConfig", "gate_hidden"]


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """`gated` with `silu` is SwiGLU. Source: docs/method.md §8."""

    mlp_dim: int
    """Width of the hidden vector, F."""
    gated: bool = True
    """docs/method.md, eq. 40; False is eq. 39."""
    activation: Activation = "silu"
    """Of the gate, or of the hidden vector where there is none."""
    bias: bool = True
    """Biases of both maps."""
    dropout: float = 0.0
    """Probability in [0, 1) to drop a hidden channel, in training."""

    def __post_init__(self) -> None:
        if self.mlp_dim < 1:
            raise ValueError(f"mlp_dim must be at least 1, got {self.mlp_dim}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        activation_function(self.activation)


def gate_hidden(config: FeedForwardConfig, hidden: Float[Array, "... parts F"]) -> Float[Array, "... F"]:
    """Apply the activation; of two parts the second gates the first."""
    function = activation_function(config.activation)
    if config.gated:
        return hidden[..., 0, :] * function(hidden[..., 1, :])
    return function(hidden[..., 0, :])


class FeedForward(nnx.Module):
    """y = W2 act(W1 x), or W2 (a ⊙ act(g)) with a and g from one product."""

    def __init__(self, embed_dim: int, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        self.config = config
        embed, hidden = {"embed": embed_dim}, {"mlp": config.mlp_dim}
        parts = {"parts": 2 if config.gated else 1}
        self.up = Linear(embed, parts | hidden, bias=config.bias, rngs=rngs)
        self.down = Linear(hidden, embed, bias=config.bias, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"], *, key: Key | None = None) -> Float[Array, "... D"]:
        hidden = named_activation(gate_hidden(self.config, self.up(x)), "hidden")
        return self.down(dropout(hidden, self.config.dropout, key))
