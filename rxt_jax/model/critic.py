"""The critic: what a text is worth, read by an encoder of its own, with memory where it is told to.

As a component of its own it says what the state of a conversation is worth (docs/method.md §19.6); a reward model reads
answers with it (§19.10).
"""

from dataclasses import replace

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.config import CriticConfig, ModelConfig
from rxt_jax.model.critic_head import CriticHead
from rxt_jax.nn.layers import TokenContext, TransformerLayer
from rxt_jax.nn.linear import Embedding
from rxt_jax.nn.stack import LayerStack
from rxt_jax.ops.attention import AttentionMask
from rxt_jax.types import Key

__all__ = ["Critic"]


class Critic(nnx.Module):
    """Embedding, layers like the encoder's, and the head of §10.6; with `reads_memory` the layers read memory as well.

    It shares no parameter with the model that answers, so that fitting values moves no answer.
    """

    def __init__(self, config: ModelConfig, own: CriticConfig, *, rngs: nnx.Rngs):
        self.dtype, self.reads_memory = config.dtype, own.reads_memory
        layers = config.encoder_layers()
        if self.reads_memory:
            layers = tuple(replace(layer, cross_attention=config.decoder.cross_attention) for layer in layers)
        self.embedding = Embedding(config.vocab_size, config.embed_dim, std=config.embedding_std, rngs=rngs)
        self.layers = LayerStack(
            layers,
            lambda layer, rngs: TransformerLayer(config.embed_dim, layer, rngs=rngs),
            unroll=config.scan_unroll,
            rngs=rngs,
        )
        self.head = CriticHead(
            config.embed_dim,
            activation=own.activation,
            scale=own.scale,
            shift=own.shift,
            rngs=rngs,
        )
        self.zero_padding = config.compatibility.zero_padding

    def __call__(
        self, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], memory: Float[Array, "L M S D"]
    ) -> Float[Array, "B"]:
        """Score texts of any length; `memory` is read where the critic reads memory.

        It may have fewer rows than there are texts, M = B / r: then texts 0 … r − 1 read its row 0, and so on.
        """
        visible = None if self.zero_padding else AttentionMask(keys=token_mask)
        positions = jnp.arange(ids.shape[1])[None]
        context = TokenContext(positions=positions, token_mask=token_mask, attention_mask=visible)

        def apply(layer: TransformerLayer, x: Array, slots: Array | None, _: Key | None) -> tuple[Array, None]:
            projected = None if slots is None else layer.project_memory(slots.astype(x.dtype))
            return layer(x, context, projected)[0], None

        slots = self.layers.split(memory) if self.reads_memory else None
        states, _ = self.layers.scan(apply, self.embedding(ids).astype(self.dtype), slots)
        return self.head(states.astype(jnp.float32), token_mask)
