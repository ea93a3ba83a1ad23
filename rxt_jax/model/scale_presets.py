"""Configurations for accelerators: about 300 million and a billion parameters, dense and with experts.

Nobody has published them. What remembers best in our own runs (`presets.toy`) is kept: a learned initial memory, gates
per slot and channel, an identity per slot. Sizes are what matrix units want: heads of 128 channels, and every width a
multiple of 256, so that a mesh divides all of them by 2, 4 and 8.
"""

from dataclasses import replace

from rxt_jax.model.config import DecoderConfig, EncoderConfig, MemoryConfig, ModelConfig
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig

__all__ = ["dense_1b", "dense_300m", "experts_1b", "experts_300m"]


def dense_300m(vocab_size: int = 32768) -> ModelConfig:
    """313 million parameters: width 1024, 6 memory layers of 512 slots, interactions of 1024 tokens."""
    return _dense(vocab_size, embed_dim=1024, num_layers=6, num_kv_heads=8, mlp_dim=2816, num_slots=512)


def dense_1b(vocab_size: int = 32768) -> ModelConfig:
    """A billion parameters: width 2048, 6 memory layers of 1024 slots, interactions of 1024 tokens."""
    return _dense(vocab_size, embed_dim=2048, num_layers=6, num_kv_heads=8, mlp_dim=5632, num_slots=1024)


def experts_300m(vocab_size: int = 32768) -> ModelConfig:
    """300 million parameters: width 768, 16 experts of which a token meets 2."""
    dense = _dense(vocab_size, embed_dim=768, num_layers=5, num_kv_heads=6, mlp_dim=2048, num_slots=512)
    return _with_experts(dense, MixtureConfig(num_experts=16, experts_per_token=2, mlp_dim=768, bias="off"))


def experts_1b(vocab_size: int = 32768) -> ModelConfig:
    """A billion parameters: width 1024, 32 experts of which a token meets 4."""
    dense = _dense(vocab_size, embed_dim=1024, num_layers=8, num_kv_heads=8, mlp_dim=2816, num_slots=1024)
    return _with_experts(dense, MixtureConfig(num_experts=32, experts_per_token=4, mlp_dim=768, bias="off"))


def _dense(
    vocab_size: int, *, embed_dim: int, num_layers: int, num_kv_heads: int, mlp_dim: int, num_slots: int
) -> ModelConfig:
    attention = AttentionConfig(
        num_query_heads=embed_dim // 128,
        num_kv_heads=num_kv_heads,
        head_dim=128,
        query_key_norm=True,
        output_bias=False,
        implementation="auto",
    )
    feed_forward = FeedForwardConfig(mlp_dim=mlp_dim, bias=False)
    return ModelConfig(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_slots=num_slots,
        max_length=1024,
        encoder=EncoderConfig(attention=attention, feed_forward=feed_forward),
        decoder=DecoderConfig(
            attention=attention, cross_attention=attention, feed_forward=feed_forward, head_norm="rms"
        ),
        memory_attention=MemoryConfig(
            layer=MemoryLayerConfig(
                attention=attention,
                gate=ResidualGateConfig(kind="elementwise", activation="sigmoid"),
                slot_identity=0.5,
            )
        ),
        embedding_std=0.02,
        dtype="bfloat16",
    )


def _with_experts(dense: ModelConfig, mixture: MixtureConfig) -> ModelConfig:
    return replace(dense, decoder=replace(dense.decoder, feed_forward=mixture))
