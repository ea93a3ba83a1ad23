"""Embedded dialogues: conversations with ground truth, made on the fly."""

from rxt_jax.data.dialogues.episodes import Dialogues
from rxt_jax.data.dialogues.spec import SPLITS, DialogueSpec, medium, small, tiny

__all__ = ["SPLITS", "DialogueSpec", "Dialogues", "medium", "small", "tiny"]
