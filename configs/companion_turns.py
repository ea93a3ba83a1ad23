"""The companion learns to write memory anew: six groups of slots that take turns, and that begin by reading the tokens
of an interaction in order.

    rxt train configs/companion_turns.py

It begins with the companion that wrote all slots at every turn, whose encoder and decoder it keeps. After these first
minutes two runs go on side by side, twice, each time from their mean: rxt_jax/companion/README.md has the commands.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe

found = runpy.run_path(str(Path(__file__).with_name("companion_scenes_cpu.py")))
scenes: Recipe = found["recipe"]
before = scenes.stages["memory_aware_scenes"]
# Plain facts again beside scenes and deeds: where memory is learnt anew, values have to be learnt with it.
spec = replace(found["spec"], scene_share=0.4, everyday_share=0.25, deeds_share=0.25)
schedule = replace(before.optimizer.schedule, kind="constant")

recipe = replace(
    scenes,
    name="companion_turns",
    seed=2,
    start_from="runs/companion_all_slots",
    start_fresh=("memory_attention",),
    model=presets.companion(),
    stages={
        "memory_aware_turns": replace(
            before,
            updates=140,
            optimizer=replace(before.optimizer, learning_rate=5e-3, schedule=schedule),
            data=replace(before.data, source=DialogueData(spec=spec)),
        )
    },
)
