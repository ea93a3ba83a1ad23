"""The Reactive Transformer, the episode engine that walks it through a conversation, and the stateless baseline."""

from flax import nnx

from rxt_jax.model.baseline import BaselineConfig, BaselineTransformer
from rxt_jax.model.config import DecoderConfig, EncoderConfig, MemoryConfig, ModelConfig
from rxt_jax.model.reactive_transformer import ReactiveTransformer

AnyModelConfig = ModelConfig | BaselineConfig
AnyModel = ReactiveTransformer | BaselineTransformer

__all__ = [
    "AnyModel",
    "AnyModelConfig",
    "BaselineConfig",
    "BaselineTransformer",
    "DecoderConfig",
    "EncoderConfig",
    "MemoryConfig",
    "ModelConfig",
    "ReactiveTransformer",
    "make_model",
]


def make_model(config: AnyModelConfig, *, rngs: nnx.Rngs) -> AnyModel:
    """Make the model that a configuration describes."""
    if isinstance(config, BaselineConfig):
        return BaselineTransformer(config, rngs=rngs)
    return ReactiveTransformer(config, rngs=rngs)
