"""Published sets of questions about what was told before, read as episodes with recall annotations."""

from rxt_jax.data.question_sets.babi import BABI_PREFIX, babi_files, read_babi
from rxt_jax.data.question_sets.sessions import SESSIONS_PREFIX, read_sessions, session_files

__all__ = ["BABI_PREFIX", "SESSIONS_PREFIX", "babi_files", "read_babi", "read_sessions", "session_files"]
