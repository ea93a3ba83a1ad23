"""The companion: the toy's lessons for a model four times as large, for hours instead of minutes.

    rxt train configs/companion.py && rxt export runs/companion rxt_jax/companion

The second command makes it the model that the package ships (`rxt chat companion`). No build ships one yet: this recipe
has not been run to its end.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]

# The toy's data and stages, for a wider model and for longer.
UPDATES = {"joint_pretraining": 250, "interaction_sft": 600, "history_reading": 600, "memory_aware": 5000}

recipe = replace(
    toy,
    name="companion",
    model=presets.companion(),
    data=replace(toy.data, max_length=56, text_length=56),
    evaluation=EvaluationConfig(),
    stages={name: replace(run, updates=UPDATES[name]) for name, run in toy.stages.items()},
)
