"""Using a trained model: sampling, generation, conversations."""

from rxt_jax.serving.chat_session import ChatSession, Chunk
from rxt_jax.serving.generation import Generated, generate
from rxt_jax.serving.sampling import SamplingConfig, sample

__all__ = ["ChatSession", "Chunk", "Generated", "SamplingConfig", "generate", "sample"]
