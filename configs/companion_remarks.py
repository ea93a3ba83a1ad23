"""The companion's last stage: remarks that tell nothing, more scenes, and plain facts again, on one CPU core.

    rxt train configs/companion_remarks.py

It begins with the mean that configs/companion_scenes_cpu.py leads to; rxt_jax/companion/README.md has the commands.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.recipe import Recipe

found = runpy.run_path(str(Path(__file__).with_name("companion_scenes_cpu.py")))
scenes: Recipe = found["recipe"]
before = scenes.stages["memory_aware_scenes"]
assert before.data is not None

# A model that takes every other remark for a fact writes into memory what nobody said.
spec = replace(
    found["spec"],
    distractor_share=0.18,
    remark_share=0.75,
    absence_share=0.13,
    scene_share=0.5,
    capitals_share=0.08,
)

recipe = replace(
    scenes,
    name="companion_remarks",
    seed=2,
    start_from="runs/companion_scenes_mean",
    stages={
        "memory_aware_remarks": replace(before, updates=1180, data=replace(before.data, source=DialogueData(spec=spec)))
    },
)
