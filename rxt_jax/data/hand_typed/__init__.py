"""Conversations that people typed, with what they asked for: data to measure a model on, never to train one."""

from rxt_jax.data.hand_typed.conversation import (
    HAND_TYPED,
    TypedConversation,
    TypedTurn,
    holds_typed_conversations,
    read_typed_conversations,
)

__all__ = [
    "HAND_TYPED",
    "TypedConversation",
    "TypedTurn",
    "holds_typed_conversations",
    "read_typed_conversations",
]
