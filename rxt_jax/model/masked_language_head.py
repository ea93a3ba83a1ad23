"""The head that trains the encoder to restore masked tokens."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from rxt_jax.nn.linear import Linear
from rxt_jax.nn.norms import LayerNorm

__all__ = ["MaskedLanguageHead"]


class MaskedLanguageHead(nnx.Module):
    """logits = W_d · LayerNorm(gelu(W x + b)) + b_d, float32. Source: docs/method.md, eq. 51."""

    def __init__(self, embed_dim: int, vocab_size: int, *, rngs: nnx.Rngs):
        self.dense = Linear({"embed": embed_dim}, {"mlp": embed_dim}, rngs=rngs)
        self.norm = LayerNorm(embed_dim, rngs=rngs)
        self.head = Linear({"embed": embed_dim}, {"vocab": vocab_size}, rngs=rngs)

    @jax.named_scope("head")
    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        activated = jax.nn.gelu(self.dense(hidden), approximate=False)
        return self.head(self.norm(activated), wide=True)
