"""The companion: ordinary English, anything for a value, remembered over a conversation.

    rxt train configs/companion.py

What the wheel ships is made by this recipe and `rxt export runs/companion rxt_jax/companion`; hours, figures and what
it cannot do are in its model card, rxt_jax/companion/README.md.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]

# The toy's data and stages, for a wider model and for longer.
UPDATES = {
    "joint_pretraining": 400,
    "interaction_sft": 600,
    "history_reading": 1500,
    "short_memory": 1000,
    "memory_aware": 4000,
}

recipe = replace(
    toy,
    name="companion",
    model=presets.companion(),
    data=replace(toy.data, max_length=56, text_length=56),
    evaluation=EvaluationConfig(),
    stages={name: replace(run, updates=UPDATES[name]) for name, run in toy.stages.items()},
)
