"""Answers: sampling, generation, whole interactions, conversations."""

from rxt_jax.serving.chat_session import ChatSession, Chunk, answer_together
from rxt_jax.serving.generation import Generated, generate
from rxt_jax.serving.interaction import Answered, interact
from rxt_jax.serving.sampling import SamplingConfig, sample

__all__ = [
    "Answered",
    "ChatSession",
    "Chunk",
    "Generated",
    "SamplingConfig",
    "answer_together",
    "generate",
    "interact",
    "sample",
]
