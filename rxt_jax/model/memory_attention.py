"""The memory attention network: M′ = F(M, ED), all layers from the previous interaction's memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from rxt_jax.model.config import ModelConfig
from rxt_jax.nn.memory_layer import EncodedLayer, MemoryLayer, WatchedWrite
from rxt_jax.nn.memory_norms import MemoryNorm
from rxt_jax.nn.stack import LayerStack, join_layers
from rxt_jax.ops.attention import AttentionMask
from rxt_jax.types import Key

__all__ = ["MemoryAttention"]


class MemoryAttention(nnx.Module):
    """L memory layers; memory layer i reads encoder layer i. Source: docs/method.md §7."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        layer_config = config.memory_layer()
        self.layers = LayerStack(
            (layer_config,) * config.num_layers,
            lambda layer, rngs: MemoryLayer(
                config.num_slots, config.embed_dim, layer, max_length=config.max_length, rngs=rngs
            ),
            unroll=config.scan_unroll,
            remat=config.remat,
            rngs=rngs,
        )
        self.variant = layer_config.variant
        self.num_groups = config.memory_attention.num_groups
        self.zero_padding = config.compatibility.zero_padding
        self.reads_mean = self.variant not in ("simple", "self")
        if self.reads_mean:
            self.mean_norm = MemoryNorm(config.num_slots, config.embed_dim, layer_config.norm, rngs=rngs)

    @jax.named_scope("write")
    def __call__(
        self,
        memory: Float[Array, "L B S D"],
        encoded: Float[Array, "L B T D"],
        token_mask: Bool[Array, "B T"],
        *,
        key: Key | None = None,
    ) -> Float[Array, "L B S D"]:
        """Write one interaction into memory, which is read and returned as it is carried, in float32."""
        return self._scan(lambda layer, inputs, key: layer(*inputs, key=key), memory, encoded, token_mask, key)

    def watch(
        self, memory: Float[Array, "L B S D"], encoded: Float[Array, "L B T D"], token_mask: Bool[Array, "B T"]
    ) -> WatchedWrite:
        """Say how a call with the same arguments writes memory."""
        return self._scan(lambda layer, inputs, _: layer.watch(*inputs), memory, encoded, token_mask, None)

    def _scan(
        self,
        call: Callable[[MemoryLayer, tuple, Key | None], Any],
        memory: Array,
        encoded: Array,
        token_mask: Array,
        key: Key | None,
    ) -> Any:
        """Call every layer with what that layer reads, and join the results along the layer axis."""
        mask = AttentionMask(keys=token_mask)
        if self.zero_padding:
            encoded, mask = jnp.where(token_mask[..., None], encoded, 0.0), None
        positions = jnp.arange(encoded.shape[2])[None]

        def apply(layer: MemoryLayer, carry: None, inputs: tuple, key: Key | None) -> tuple[None, Any]:
            slots, states, mean = inputs
            return carry, call(layer, (slots, EncodedLayer(states, positions, mask), mean), key)

        inputs = self.layers.split((memory, encoded, self._layer_means(memory)))
        _, written = self.layers.scan(apply, None, inputs, key=key)
        return join_layers(written)

    def _layer_means(self, memory: Array) -> Array | None:
        """Give every layer the normalised mean over the layers of its group."""
        if not self.reads_mean:
            return None
        layers, *shape = memory.shape
        groups = memory.reshape(self.num_groups, layers // self.num_groups, *shape)
        means = jnp.stack([self.mean_norm(mean) for mean in jnp.mean(groups, axis=1)])
        return jnp.repeat(means, layers // self.num_groups, axis=0)
