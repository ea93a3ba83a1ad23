"""The companion: the toy's lessons for a wider model, for an hour or two instead of a quarter.

    rxt train configs/companion.py && rxt export runs/companion rxt_jax/companion

The second command makes it the model that the package ships (`rxt chat companion`); how that one was made and what it
can do is in `rxt_jax/companion/README.md`.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]

# The toy's data and stages, for a wider model and for longer.
UPDATES = {"joint_pretraining": 200, "interaction_sft": 450, "history_reading": 350}
first = {name: replace(toy.stages[name], updates=updates) for name, updates in UPDATES.items()}
data = replace(toy.data, max_length=56, text_length=56)


def _memory_aware(updates: int, learning_rate: float, **schedule: object) -> StageRun:
    run = toy.stages["memory_aware"]
    optimizer = replace(
        run.optimizer, learning_rate=learning_rate, schedule=replace(run.optimizer.schedule, **schedule)
    )
    return replace(run, updates=updates, optimizer=optimizer)


# Most of what is left to learn are the values: they are an eighth of the tokens of answers. At first they cannot be
# known, and their weight would only be noise.
values = replace(_memory_aware(1900, 8e-3, warmup_share=0.02), data=replace(data, value_weight=3.0))

recipe = replace(
    toy,
    name="companion",
    model=presets.companion(),
    data=data,
    evaluation=EvaluationConfig(),
    stages=first
    | {
        "memory_aware": _memory_aware(400, 1e-2, kind="constant", warmup_share=0.1),
        "memory_aware_values": values,
    },
)
