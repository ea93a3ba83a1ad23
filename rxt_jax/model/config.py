"""The configuration of a whole model: a tree of frozen dataclasses, every field with its unit and limits."""

from dataclasses import dataclass, field, replace
from typing import Literal

from rxt_jax.compatibility import Compatibility
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.layers import LayerConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.norms import NormKind
from rxt_jax.nn.rotary import RotaryConfig

__all__ = ["DecoderConfig", "EncoderConfig", "InitialMemory", "MemoryConfig", "ModelConfig"]

InitialMemory = Literal["learned", "standard", "normal", "uniform", "zeros", "ones"]
"""Memory before the first interaction: a parameter, N(0, 1), N(0, 0.01²), U[0, 0.01), zeros, ones."""

FeedForwardChoice = FeedForwardConfig | MixtureConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The bidirectional reader of an interaction. Source: architecture spec §11.2.

    `layer_attentions` gives every layer its own heads; empty = `attention` for all.
    """

    attention: AttentionConfig
    feed_forward: FeedForwardChoice
    layer_attentions: tuple[AttentionConfig, ...] = ()
    norm: NormKind = "rms"
    rotary_base: float | None = 10000.0
    """None = no positions at all."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The answering network: stateless layers, layers that read memory, final stateless layers, head.

    Source: architecture spec §11.3.
    """

    attention: AttentionConfig
    cross_attention: AttentionConfig
    feed_forward: FeedForwardChoice
    layer_attentions: tuple[AttentionConfig, ...] = ()
    stateless: tuple[FeedForwardChoice, ...] = ()
    stateless_attentions: tuple[AttentionConfig, ...] = ()
    final_stateless: tuple[FeedForwardChoice, ...] = ()
    final_stateless_attentions: tuple[AttentionConfig, ...] = ()
    head_norm: NormKind | None = None
    norm: NormKind = "rms"
    rotary_base: float | None = 10000.0


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The memory attention network. `num_groups` concerns the grouped variant. Source: spec §8."""

    layer: MemoryLayerConfig
    num_groups: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Reactive Transformer.

    `num_layers` counts layers with memory: those of the encoder, of the memory, and of the decoder
    without its stateless ones. `max_length` is the number of tokens of one interaction.
    `dtype` is the compute type; parameters, norms, softmax and losses stay float32.
    `scan_unroll` layers share one scan step: more is faster to run and slower to compile.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_slots: int
    max_length: int
    encoder: EncoderConfig
    decoder: DecoderConfig
    memory_attention: MemoryConfig
    initial_memory: InitialMemory = "learned"
    initial_memory_std: float = 1.0
    embedding_std: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan_unroll: int = 1
    compatibility: Compatibility = field(default_factory=Compatibility)

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "embed_dim",
            "num_layers",
            "num_slots",
            "max_length",
            "scan_unroll",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, expected in (
            ("encoder.layer_attentions", self.num_layers),
            ("decoder.layer_attentions", self.num_layers),
            ("decoder.stateless_attentions", len(self.decoder.stateless)),
            ("decoder.final_stateless_attentions", len(self.decoder.final_stateless)),
        ):
            part, attribute = name.split(".")
            given = len(getattr(getattr(self, part), attribute))
            if given not in (0, expected):
                raise ValueError(f"{name} must be empty or have one entry per layer ({expected}), got {given}.")
        groups = self.memory_attention.num_groups
        if self.num_layers % groups:
            raise ValueError(
                f"num_layers = {self.num_layers} must be a multiple of memory_attention.num_groups, got {groups}."
            )
        if groups > 1 and self.memory_attention.layer.variant != "grouped_self_interlayer":
            raise ValueError(
                f"memory_attention.num_groups = {groups} needs the variant "
                f"'grouped_self_interlayer', got {self.memory_attention.layer.variant!r}."
            )

    def rotary(self, base: float | None) -> RotaryConfig | None:
        """Describe the rotary positions of a component."""
        if base is None:
            return None
        return RotaryConfig(
            base=base,
            legacy_layout=self.compatibility.legacy_rotary_layout,
            angles_in_compute_dtype=self.compatibility.rotary_angles_in_compute_dtype,
        )

    def encoder_layers(self) -> tuple[LayerConfig, ...]:
        """List the encoder's layers."""
        config = self.encoder
        attentions = config.layer_attentions or (config.attention,) * self.num_layers
        return tuple(self._layer(config, attention, config.feed_forward) for attention in attentions)

    def decoder_layers(self) -> tuple[LayerConfig, ...]:
        """List the decoder's layers that read memory."""
        config = self.decoder
        attentions = config.layer_attentions or (config.attention,) * self.num_layers
        return tuple(
            replace(
                self._layer(config, attention, config.feed_forward),
                cross_attention=config.cross_attention,
            )
            for attention in attentions
        )

    def stateless_layers(self, *, final: bool) -> tuple[LayerConfig, ...]:
        """List the decoder's layers without memory, before or after the others."""
        config = self.decoder
        feed_forwards = config.final_stateless if final else config.stateless
        attentions = config.final_stateless_attentions if final else config.stateless_attentions
        attentions = attentions or (config.attention,) * len(feed_forwards)
        return tuple(
            self._layer(config, attention, feed_forward)
            for attention, feed_forward in zip(attentions, feed_forwards, strict=True)
        )

    def memory_layer(self) -> MemoryLayerConfig:
        """Describe a memory layer, with the switches of `compatibility`."""
        layer = self.memory_attention.layer
        if layer.rotary is None:
            return layer
        return replace(layer, rotary=self.rotary(layer.rotary.base))

    def _layer(
        self,
        config: EncoderConfig | DecoderConfig,
        attention: AttentionConfig,
        feed_forward: FeedForwardChoice,
    ) -> LayerConfig:
        return LayerConfig(
            attention=attention,
            feed_forward=feed_forward,
            norm=config.norm,
            rotary=self.rotary(config.rotary_base),
            zero_padding=self.compatibility.zero_padding,
            zero_padded_queries=self.compatibility.causal_ignores_padding,
        )
