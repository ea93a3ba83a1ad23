"""The Reactive Transformer and the episode engine that walks it through a conversation."""

from rxt_jax.model.baseline import BaselineConfig, BaselineTransformer
from rxt_jax.model.config import DecoderConfig, EncoderConfig, MemoryConfig, ModelConfig
from rxt_jax.model.reactive_transformer import ReactiveTransformer

__all__ = [
    "BaselineConfig",
    "BaselineTransformer",
    "DecoderConfig",
    "EncoderConfig",
    "MemoryConfig",
    "ModelConfig",
    "ReactiveTransformer",
]
