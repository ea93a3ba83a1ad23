"""Answers: sampling, generation, whole interactions, conversations."""

from rxt_jax.serving.asking import ask
from rxt_jax.serving.chat_session import ChatSession, answer_together
from rxt_jax.serving.generation import Generated, generate
from rxt_jax.serving.history_session import HistorySession
from rxt_jax.serving.interaction import Answered, interact
from rxt_jax.serving.memory_change import MemoryChange
from rxt_jax.serving.sampling import SamplingConfig, sample
from rxt_jax.serving.streaming import Chunk

__all__ = [
    "Answered",
    "ChatSession",
    "Chunk",
    "Generated",
    "HistorySession",
    "MemoryChange",
    "SamplingConfig",
    "answer_together",
    "ask",
    "generate",
    "interact",
    "sample",
]
