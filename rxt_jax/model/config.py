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
from rxt_jax.nn.remat import check_remat
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.nn.short_convolution import ShortConvolutionConfig, check_causal

__all__ = [
    "CriticConfig",
    "DecoderConfig",
    "EncoderConfig",
    "InitialMemory",
    "MemoryConfig",
    "ModelConfig",
    "RewardModelConfig",
]

InitialMemory = Literal["learned", "standard", "normal", "uniform", "zeros", "ones"]
"""Memory before the first interaction: a parameter, N(0, 1), N(0, 0.01²), U[0, 0.01), zeros, ones."""

FeedForwardChoice = FeedForwardConfig | MixtureConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The bidirectional reader of an interaction. Source: docs/method.md §10.2."""

    attention: AttentionConfig
    """Self-attention of all layers, unless said otherwise below."""
    feed_forward: FeedForwardChoice
    """Of all layers: dense, or a mixture of experts."""
    layer_attentions: tuple[AttentionConfig, ...] = ()
    """Heads of every layer, one by one; empty = `attention` for all."""
    norm: NormKind = "rms"
    """Of all layers."""
    rotary_base: float | None = 10000.0
    """None = no positions at all."""
    short_convolution: ShortConvolutionConfig | None = None
    """Of all layers; None = none, as published."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The answering network: stateless layers, layers that read memory, final stateless layers, head.

    Source: docs/method.md §10.3.
    """

    attention: AttentionConfig
    """Self-attention of all layers, stateless ones included, unless said otherwise below."""
    cross_attention: AttentionConfig
    """From tokens to memory."""
    feed_forward: FeedForwardChoice
    """Of the layers that read memory."""
    layer_attentions: tuple[AttentionConfig, ...] = ()
    """Self-attention of every layer that reads memory, one by one; empty = `attention` for all."""
    stateless: tuple[FeedForwardChoice, ...] = ()
    """Feed-forwards of the layers before those that read memory: as many layers as entries."""
    stateless_attentions: tuple[AttentionConfig, ...] = ()
    """Their self-attentions; empty = `attention`."""
    final_stateless: tuple[FeedForwardChoice, ...] = ()
    """Feed-forwards of the layers after those that read memory."""
    final_stateless_attentions: tuple[AttentionConfig, ...] = ()
    """Their self-attentions; empty = `attention`."""
    head_norm: NormKind | None = None
    """Norm before the head; None = none."""
    norm: NormKind = "rms"
    """Of all layers."""
    rotary_base: float | None = 10000.0
    """None = no positions at all."""
    short_convolution: ShortConvolutionConfig | None = None
    """Of all layers; None = none, as published. It sees tokens before alone."""
    induction: bool = False
    """The first layer begins as an induction head: it finds what followed the same token earlier (docs/method.md
    §10.9). It needs as many key/value as query heads, whose widths add up to that of the model."""

    def __post_init__(self) -> None:
        check_causal("decoder.short_convolution", self.short_convolution)


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The memory attention network. Source: docs/method.md §7."""

    layer: MemoryLayerConfig
    """Every layer, which are all alike."""
    num_groups: int = 1
    """Runs of layers with a mean of their own, for the grouped variant; divides the number of layers."""


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """The network that says what a state is worth, for memory reinforcement. Source: docs/method.md §19.6.

    It reads the previous interaction and the query. The defaults give values from 0 to 10.
    """

    reads_memory: bool = False
    """Whether it also reads the memory that the answer is made from."""
    with_first: bool = False
    """Whether it reads the first interaction of the episode before the others."""
    activation: Literal["sigmoid", "tanh", "linear"] = "sigmoid"
    """The function that a value goes through last."""
    scale: float = 10.0
    """What the activation is multiplied by at first; it is learnt."""
    shift: float = 0.0
    """What is added to that at first; it is learnt."""


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """The network that says how good an answer is, given memory. Source: docs/method.md §19.10.

    It reads an interaction with its layers and a memory that it writes itself. Scores have no unit: what counts is by
    how much one answer is above another.
    """

    activation: Literal["sigmoid", "tanh", "linear"] = "linear"
    """The function that a score goes through last; "tanh" bounds what any answer can earn."""
    scale: float = 1.0
    """What that is multiplied by at first; it is learnt."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Reactive Transformer. Source: docs/method.md §2."""

    vocab_size: int
    """Tokens, V."""
    embed_dim: int
    """Width of tokens and slots, D."""
    num_layers: int
    """Layers with memory, L: those of the encoder, of the memory, and of the decoder without its stateless ones."""
    num_slots: int
    """Slots of memory per layer, S."""
    max_length: int
    """Tokens of one interaction, query and answer together."""
    encoder: EncoderConfig
    """Reads an interaction that is over."""
    decoder: DecoderConfig
    """Answers a query, reading memory."""
    memory_attention: MemoryConfig
    """Writes what the encoder read into memory."""
    initial_memory: InitialMemory = "learned"
    """Memory before the first interaction (docs/method.md §7.1); published models draw it from N(0, 1), `standard`."""
    initial_memory_std: float = 1.0
    """Standard deviation that a learned initial memory starts from."""
    embedding_std: float = 1.0
    """Standard deviation that the embedding starts from; published: 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters, norms, softmax and losses stay float32."""
    scan_unroll: int = 1
    """Layers that share one scan step: more is faster to run and slower to compile."""
    remat: str = "none"
    """What of a layer is kept for the gradient: none (all of it), full, names or offload (`nn/remat.py`)."""
    critic: CriticConfig | None = None
    """None: the model has no critic; only reinforcement with values needs one."""
    reward_model: RewardModelConfig | None = None
    """None: the model has no reward model; only rewards that are learnt from preferences need one."""
    compatibility: Compatibility = field(default_factory=Compatibility)
    """Published behaviour, off by default."""

    def __post_init__(self) -> None:
        check_remat(self.remat, "remat")
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
        slot_groups = self.memory_attention.layer.slot_groups
        if self.num_slots % slot_groups:
            raise ValueError(
                f"num_slots = {self.num_slots} must be a multiple of memory_attention.layer.slot_groups, got "
                f"{slot_groups}."
            )
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

    @property
    def has_dropout(self) -> bool:
        """Whether encoder or decoder drop anything in training."""
        layers = (
            *self.encoder_layers(),
            *self.decoder_layers(),
            *self.stateless_layers(final=False),
            *self.stateless_layers(final=True),
        )
        parts = (
            part for layer in layers for part in (layer.attention, layer.cross_attention, layer.feed_forward) if part
        )
        return any(part.dropout for part in parts)

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
                induction=config.induction and not config.stateless and number == 0,
            )
            for number, attention in enumerate(attentions)
        )

    def stateless_layers(self, *, final: bool) -> tuple[LayerConfig, ...]:
        """List the decoder's layers without memory, before or after the others."""
        config = self.decoder
        feed_forwards = config.final_stateless if final else config.stateless
        attentions = config.final_stateless_attentions if final else config.stateless_attentions
        attentions = attentions or (config.attention,) * len(feed_forwards)
        return tuple(
            replace(
                self._layer(config, attention, feed_forward),
                induction=config.induction and not final and number == 0,
            )
            for number, (attention, feed_forward) in enumerate(zip(attentions, feed_forwards, strict=True))
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
            short_convolution=config.short_convolution,
            zero_padding=self.compatibility.zero_padding,
            zero_padded_queries=self.compatibility.causal_ignores_padding,
        )
