"""The companion's last stage: scenes again, at a low rate, in small batches on one CPU core.

It begins with `runs/companion_mixed`, which configs/companion_scenes.py makes. rxt_jax/companion/README.md has the
commands: it runs twice, and what ships is a mean.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.recipe import Recipe

found = runpy.run_path(str(Path(__file__).with_name("companion_scenes.py")))
scenes: Recipe = found["recipe"]
before = scenes.stages["memory_aware_scenes"]
toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]
spec = replace(found["spec"], interactions=(9, 9), facts=(2, 6), max_distance=8, absence_share=0.15)
assert before.data is not None

recipe = replace(
    scenes,
    name="companion_scenes_cpu",
    cpu_devices=1,
    seed=1,
    start_from="runs/companion_mixed",
    stages={
        "memory_aware_scenes": replace(
            before,
            # Small batches and a setting for CPUs.
            stage=toy.stages["memory_aware"].stage,
            updates=1180,
            batch_size=8,
            optimizer=replace(
                before.optimizer,
                learning_rate=3e-3,
                schedule=replace(before.optimizer.schedule, kind="cosine", warmup_share=0.03, final_ratio=0.02),
            ),
            data=replace(before.data, source=DialogueData(spec=spec), max_interactions=9),
        )
    },
)
