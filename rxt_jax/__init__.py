"""The Reactive Transformer on JAX: models with a fixed-size memory, trained stage by stage.

Public names are imported when they are used, so that importing the package costs nothing.
"""

import importlib
from typing import Any

__all__ = [
    "DPOConfig",
    "DPOTrainer",
    "ModelConfig",
    "ReactiveTransformer",
    "evaluate_run",
    "load",
    "open_session",
    "presets",
    "trace_memory",
]

_PUBLIC = {
    "DPOConfig": ("rxt_jax.stages.preference", "DPOConfig"),
    "DPOTrainer": ("rxt_jax.stages.preference", "DPOTrainer"),
    "ModelConfig": ("rxt_jax.model", "ModelConfig"),
    "ReactiveTransformer": ("rxt_jax.model", "ReactiveTransformer"),
    "evaluate_run": ("rxt_jax.run_evaluation", "evaluate_run"),
    "load": ("rxt_jax.run_folder", "load"),
    "open_session": ("rxt_jax.run_session", "open_session"),
    "presets": ("rxt_jax.model.presets", None),
    "trace_memory": ("rxt_jax.run_inspection", "trace_memory"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rxt_jax' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)
