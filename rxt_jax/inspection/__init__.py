"""Looking into memory: what was written where, what reads it, and what an answer loses without a slot."""

from rxt_jax.inspection.answer_source import memory_worth
from rxt_jax.inspection.experiments import EXPERIMENTS, Effects
from rxt_jax.inspection.memory_trace import MemoryTrace, TracedTurn, trace_conversation

__all__ = ["EXPERIMENTS", "Effects", "MemoryTrace", "TracedTurn", "memory_worth", "trace_conversation"]
