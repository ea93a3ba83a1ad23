"""The encoder: reads a whole interaction in both directions and keeps the states of every layer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.config import ModelConfig
from rxt_jax.nn.layers import TokenContext, TransformerLayer
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.stack import LayerStack, join_layers
from rxt_jax.ops.attention import AttentionMask, document_positions
from rxt_jax.types import Key

__all__ = ["Encoder"]


class Encoder(nnx.Module):
    """L bidirectional layers. Source: docs/method.md, eq. 48."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.layers = LayerStack(
            config.encoder_layers(),
            lambda layer, rngs: TransformerLayer(config.embed_dim, layer, rngs=rngs),
            unroll=config.scan_unroll,
            remat=config.remat,
            rngs=rngs,
        )
        self.zero_padding = config.compatibility.zero_padding
        self.num_mixtures = sum(isinstance(layer.feed_forward, MixtureConfig) for layer in config.encoder_layers())

    @jax.named_scope("encode")
    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        token_mask: Bool[Array, "B T"],
        *,
        documents: Int[Array, "B T"] | None = None,
        balance_groups: int | None = None,
        key: Key | None = None,
    ) -> tuple[Float[Array, "L B T D"], Float[Array, "*groups"]]:
        """Return the residual stream after every layer, without a final norm, and the mean balance loss of the
        mixture layers (0 without any). `balance_groups`: see `TokenContext`."""
        visible = None if self.zero_padding else AttentionMask(keys=token_mask)
        positions = jnp.arange(embedded.shape[1])[None]
        if documents is not None:
            visible, positions = AttentionMask(documents=documents), document_positions(documents)
        context = TokenContext(
            positions=positions, token_mask=token_mask, attention_mask=visible, balance_groups=balance_groups
        )

        def apply(layer: TransformerLayer, x: Array, _: None, key: Key | None) -> tuple[Array, tuple[Array, Array]]:
            x, balance = layer(x, context, key=key)[:2]
            return x, (x, balance)

        _, outputs = self.layers.scan(apply, embedded, key=key)
        balance = sum((jnp.sum(balance, axis=0) for _, balance in outputs), jnp.float32(0.0))
        return join_layers(tuple(states for states, _ in outputs)), balance / max(self.num_mixtures, 1)
