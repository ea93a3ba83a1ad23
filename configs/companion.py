"""The companion: the toy's lessons for a wider model, for an hour and a half instead of a quarter.

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
UPDATES = {"joint_pretraining": 250, "interaction_sft": 600, "history_reading": 600}
first = {name: replace(toy.stages[name], updates=updates) for name, updates in UPDATES.items()}


def _memory_aware(updates: int, learning_rate: float, **schedule: object) -> StageRun:
    run = toy.stages["memory_aware"]
    optimizer = replace(
        run.optimizer, learning_rate=learning_rate, schedule=replace(run.optimizer.schedule, **schedule)
    )
    return replace(run, updates=updates, optimizer=optimizer)


recipe = replace(
    toy,
    name="companion",
    model=presets.companion(),
    data=replace(toy.data, max_length=56, text_length=56),
    evaluation=EvaluationConfig(),
    stages=first
    | {
        # At 2e-2 memory takes 250 updates to tell conversations apart. From there batches of 16 are too noisy for this
        # rate: a hundred updates at a quarter of it brought the loss of answers from 0.52 to 0.37.
        "memory_aware": _memory_aware(635, 2e-2, kind="constant", warmup_share=0.47),
        "memory_aware_slowly": _memory_aware(3800, 8e-3, warmup_share=0.02),
    },
)
