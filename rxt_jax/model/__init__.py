"""The Reactive Transformer, the episode engine that walks it through a conversation, generation, and the baseline."""

from flax import nnx

from rxt_jax.model.baseline import BaselineConfig, BaselineTransformer
from rxt_jax.model.config import (
    CriticConfig,
    DecoderConfig,
    EncoderConfig,
    MemoryConfig,
    ModelConfig,
    RewardModelConfig,
)
from rxt_jax.model.generation import Generated, generate
from rxt_jax.model.generation_rules import SamplingConfig, make_rules
from rxt_jax.model.interaction import Answered, interact
from rxt_jax.model.reactive_transformer import ReactiveTransformer

AnyModelConfig = ModelConfig | BaselineConfig
AnyModel = ReactiveTransformer | BaselineTransformer

__all__ = [
    "Answered",
    "AnyModel",
    "AnyModelConfig",
    "BaselineConfig",
    "BaselineTransformer",
    "CriticConfig",
    "DecoderConfig",
    "EncoderConfig",
    "Generated",
    "MemoryConfig",
    "ModelConfig",
    "ReactiveTransformer",
    "RewardModelConfig",
    "SamplingConfig",
    "generate",
    "interact",
    "make_model",
    "make_rules",
]


def make_model(config: AnyModelConfig, *, rngs: nnx.Rngs) -> AnyModel:
    """Make the model that a configuration describes."""
    if isinstance(config, BaselineConfig):
        return BaselineTransformer(config, rngs=rngs)
    return ReactiveTransformer(config, rngs=rngs)
