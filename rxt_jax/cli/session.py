"""A conversation with the model of a run, whichever kind of model it is."""

from typing import Any

from rxt_jax.model import BaselineTransformer
from rxt_jax.run_folder import LoadedRun
from rxt_jax.serving import ChatSession, HistorySession

__all__ = ["open_session"]


def open_session(loaded: LoadedRun, **options: Any) -> ChatSession | HistorySession:
    """Begin a conversation with a run's model, whichever kind it is."""
    if isinstance(loaded.model, BaselineTransformer):
        return HistorySession(loaded.model, loaded.tokenizer, **options)
    return ChatSession(loaded.model, loaded.tokenizer, max_length=loaded.recipe.data.max_length, **options)
