"""Conversations: sessions, streaming, questions to a memory."""

from rxt_jax.serving.asking import ask
from rxt_jax.serving.chat_session import ChatSession, answer_together
from rxt_jax.serving.history_session import HistorySession
from rxt_jax.serving.memory_change import MemoryChange
from rxt_jax.serving.streaming import Answer, Chunk

__all__ = [
    "Answer",
    "ChatSession",
    "Chunk",
    "HistorySession",
    "MemoryChange",
    "answer_together",
    "ask",
]
