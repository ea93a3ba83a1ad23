"""Ready configurations: a toy that learns on a laptop, and the published models.

Published presets keep published behaviour (random initial memory, gates, losses); `toy` has what
measured best in our own runs. Source of the published numbers: docs/method.md §20.1.
"""

from dataclasses import replace
from typing import Any

import jax
from flax import nnx

from rxt_jax.model.baseline import BaselineConfig, BaselineTransformer
from rxt_jax.model.config import DecoderConfig, EncoderConfig, MemoryConfig, ModelConfig
from rxt_jax.model.reactive_transformer import ReactiveTransformer
from rxt_jax.model.scale_presets import dense_1b, dense_300m, experts_1b, experts_300m
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.nn.short_convolution import ShortConvolutionConfig

__all__ = [
    "PRESETS",
    "baseline_like",
    "dense_1b",
    "dense_300m",
    "experts_1b",
    "experts_300m",
    "rxt_alpha_micro",
    "rxt_alpha_micro_plus",
    "rxt_alpha_mini",
    "rxt_beta_3b_a190m",
    "toy",
]


def _small(vocab_size: int, *, embed_dim: int, mlp_dim: int, max_length: int) -> ModelConfig:
    """Two layers with heads of 32, for CPUs: heads of 16 learn to spell what they copy later, and cost more.

    Memory has six groups of 32 slots. Interactions are told apart by where they are written, and what is not worth
    keeping by a gate that stays shut. From the first update on slots read one token after the other.
    """
    heads = embed_dim // 32
    attention = AttentionConfig(num_query_heads=heads, num_kv_heads=heads, head_dim=32, output_bias=False)
    feed_forward = FeedForwardConfig(mlp_dim=mlp_dim, bias=False)
    return ModelConfig(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        num_layers=2,
        num_slots=192,
        max_length=max_length,
        encoder=EncoderConfig(attention=attention, feed_forward=feed_forward),
        decoder=DecoderConfig(
            attention=attention,
            cross_attention=attention,
            feed_forward=feed_forward,
            head_norm="rms",
        ),
        memory_attention=MemoryConfig(
            layer=MemoryLayerConfig(
                attention=attention,
                gate=ResidualGateConfig(kind="learned_slot", activation="sigmoid", initial=1.0),
                rotary=None,
                slot_identity=1.5,
                slot_groups=6,
                start="copy",
                in_order=True,
            )
        ),
        embedding_std=0.05,
        scan_unroll=2,
    )


def toy(vocab_size: int = 1024) -> ModelConfig:
    """A million parameters: learns to remember ordinary sentences in minutes on two CPU cores."""
    config = _small(vocab_size, embed_dim=96, mlp_dim=288, max_length=48)
    # The decoder copies words of its own row from the first update on, and tokens know their neighbours.
    around, before = ShortConvolutionConfig(before=2, after=2), ShortConvolutionConfig(before=3)
    return replace(
        config,
        encoder=replace(config.encoder, short_convolution=around),
        decoder=replace(config.decoder, short_convolution=before, induction=True),
    )


def companion(vocab_size: int = 1024) -> ModelConfig:
    """The model that ships with the package: four and a half million parameters, for ordinary sentences."""
    config = _small(vocab_size, embed_dim=192, mlp_dim=576, max_length=64)
    return replace(config, num_layers=3, scan_unroll=3)


def _alpha(
    *,
    embed_dim: int,
    num_layers: int,
    heads: int,
    head_dim: int,
    mixture: MixtureConfig,
    encoder_mlp_dim: int,
    vocab_size: int,
    length: int,
    memory_layer: MemoryLayerConfig,
) -> ModelConfig:
    attention = AttentionConfig(num_query_heads=heads, num_kv_heads=heads, head_dim=head_dim)
    return ModelConfig(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_slots=length,
        max_length=length,
        encoder=EncoderConfig(attention=attention, feed_forward=FeedForwardConfig(mlp_dim=encoder_mlp_dim)),
        decoder=DecoderConfig(attention=attention, cross_attention=attention, feed_forward=mixture),
        memory_attention=MemoryConfig(layer=replace(memory_layer, attention=attention, inner_attention=attention)),
        initial_memory="standard",
    )


def _alpha_mixture(num_experts: int, experts_per_token: int, mlp_dim: int) -> MixtureConfig:
    return MixtureConfig(
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        mlp_dim=mlp_dim,
        bias="local",
        balance_loss="published",
    )


_ANY = AttentionConfig(num_query_heads=1, num_kv_heads=1, head_dim=2)


def _gated_layer(variant: str, gate: ResidualGateConfig, **options: object) -> MemoryLayerConfig:
    """Use one gate everywhere, as the published memory networks do."""
    return MemoryLayerConfig(
        variant=variant,  # type: ignore[arg-type]
        attention=_ANY,
        inner_attention=_ANY,
        gate=gate,
        inner_gate=gate,
        mixture_gate=gate,
        **options,  # type: ignore[arg-type]
    )


def rxt_alpha_micro(vocab_size: int = 7500) -> ModelConfig:
    """Decoder 9.46M, encoder 2.05M, memory attention 1.19M, masked-language head 0.98M parameters."""
    gate = ResidualGateConfig(kind="linear", activation="sigmoid")
    return _alpha(
        embed_dim=128,
        num_layers=6,
        heads=4,
        head_dim=16,
        mixture=_alpha_mixture(12, 2, 256),
        encoder_mlp_dim=384,
        vocab_size=vocab_size,
        length=256,
        memory_layer=_gated_layer("interlayer", gate),
    )


def rxt_alpha_micro_plus(vocab_size: int = 7500) -> ModelConfig:
    """Decoder 22.40M parameters: more layers, more and finer experts."""
    gate = ResidualGateConfig(kind="elementwise", activation="sigmoid")
    return _alpha(
        embed_dim=128,
        num_layers=10,
        heads=4,
        head_dim=16,
        mixture=_alpha_mixture(20, 4, 256),
        encoder_mlp_dim=384,
        vocab_size=vocab_size,
        length=256,
        memory_layer=_gated_layer("self_interlayer", gate),
    )


def rxt_alpha_mini(vocab_size: int = 10000) -> ModelConfig:
    """Decoder 57.8M parameters; 1024 tokens per interaction and as many slots per layer."""
    gate = ResidualGateConfig(kind="elementwise", activation="sigmoid")
    return _alpha(
        embed_dim=256,
        num_layers=8,
        heads=8,
        head_dim=16,
        mixture=_alpha_mixture(16, 2, 512),
        encoder_mlp_dim=768,
        vocab_size=vocab_size,
        length=1024,
        memory_layer=_gated_layer("self_interlayer", gate),
    )


def rxt_beta_3b_a190m(vocab_size: int = 65536) -> ModelConfig:
    """Decoder 2.842B parameters, 195M of them active per token; 8192 tokens, 4096 slots per layer."""
    published = {"head_dim": 32, "output_bias": False, "gate_init": "published"}
    attention = AttentionConfig(num_query_heads=8, num_kv_heads=4, gated=True, **published)
    wide = AttentionConfig(num_query_heads=8, num_kv_heads=8, gated=True, **published)
    memory_attention = AttentionConfig(num_query_heads=8, num_kv_heads=8, head_dim=32)
    mixture = MixtureConfig(
        num_experts=384,
        experts_per_token=10,
        mlp_dim=192,
        bias="global",
        num_shared_experts=2,
        shared_mlp_dim=384,
        shared_bias="global",
        router_dtype="bfloat16",
        balance_loss="published",
    )
    dense = FeedForwardConfig(mlp_dim=1536)
    gate = ResidualGateConfig(kind="elementwise", activation="sigmoid")
    layer = _gated_layer("grouped_self_interlayer", gate, rotary=RotaryConfig(base=100000.0))
    return ModelConfig(
        vocab_size=vocab_size,
        embed_dim=512,
        num_layers=21,
        num_slots=4096,
        max_length=8192,
        encoder=EncoderConfig(attention=wide, feed_forward=dense, rotary_base=100000.0),
        decoder=DecoderConfig(
            attention=attention,
            cross_attention=replace(attention, gated=False),
            feed_forward=mixture,
            stateless=(dense, mixture),
            final_stateless=(mixture, mixture),
            head_norm="rms",
            rotary_base=100000.0,
        ),
        memory_attention=MemoryConfig(
            layer=replace(layer, attention=memory_attention, inner_attention=memory_attention),
            num_groups=3,
        ),
        initial_memory="standard",
        dtype="bfloat16",
    )


def baseline_like(config: ModelConfig, *, max_length: int) -> BaselineConfig:
    """Describe the stateless baseline of a model: same width and kinds of layer, as many parameters as layers allow.

    It gets more layers in place of encoder, cross-attention and memory attention (the masked-language head does not
    count, no conversation uses it). `max_length` is the number of tokens of a whole conversation.
    """

    def size(model: type, config: Any) -> int:
        abstract = nnx.split(nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0))))[1]
        parts = {name: part for name, part in abstract.items() if name != "masked_language_head"}
        return sum(leaf.size for leaf in jax.tree.leaves(parts))

    first = config.decoder.stateless
    baseline = BaselineConfig(
        vocab_size=config.vocab_size,
        embed_dim=config.embed_dim,
        num_layers=len(first) + 1,
        max_length=max_length,
        attention=config.decoder.attention,
        feed_forward=config.decoder.feed_forward,
        first_layers=first,
        head_norm=config.decoder.head_norm,
        norm=config.decoder.norm,
        rotary_base=config.decoder.rotary_base,
        short_convolution=config.decoder.short_convolution,
        induction=config.decoder.induction,
        embedding_std=config.embedding_std,
        dtype=config.dtype,
        scan_unroll=config.scan_unroll,
        compatibility=config.compatibility,
    )
    smallest = size(BaselineTransformer, baseline)
    layer = size(BaselineTransformer, replace(baseline, num_layers=len(first) + 2)) - smallest
    more = round((size(ReactiveTransformer, config) - smallest) / layer)
    return replace(baseline, num_layers=len(first) + 1 + max(more, 0))


PRESETS = {
    preset.__name__: preset
    for preset in (
        toy,
        companion,
        rxt_alpha_micro,
        rxt_alpha_micro_plus,
        rxt_alpha_mini,
        rxt_beta_3b_a190m,
        dense_300m,
        dense_1b,
        experts_300m,
        experts_1b,
    )
}
"""Name → function of the vocabulary size."""
