"""Measuring memory: recall by distance, with memory as it is and spoilt."""

from rxt_jax.evaluation.baseline import evaluate_baseline
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.evaluate import evaluate_split
from rxt_jax.evaluation.hand_typed import HandTypedReport, evaluate_hand_typed
from rxt_jax.evaluation.preferences import PreferenceReport, evaluate_preferences
from rxt_jax.evaluation.report import Report, SplitResult

__all__ = [
    "EvaluationConfig",
    "HandTypedReport",
    "PreferenceReport",
    "Report",
    "SplitResult",
    "evaluate_baseline",
    "evaluate_hand_typed",
    "evaluate_preferences",
    "evaluate_split",
]
