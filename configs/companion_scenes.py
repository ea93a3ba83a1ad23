"""The companion learns scenes: what people tell about health, trips, work, home, people, money and leisure.

    rxt train configs/companion_scenes.py --model.dtype bfloat16 --stages.memory-aware-scenes.data.workers 11
    rxt export runs/companion_deeds runs/companion_mixed --average-with runs/companion_scenes --average-share 0.35

It begins with what configs/companion.py had before its last stage: five minutes on an H100. The second command takes a
share of what it has learnt into the model that copies better. rxt_jax/companion/README.md has the commands that follow
(configs/companion_scenes_cpu.py, and means) and says what each of these models can do.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.recipe import Recipe

companion: Recipe = runpy.run_path(str(Path(__file__).with_name("companion.py")))["recipe"]
before = companion.stages["memory_aware_values"]
assert before.data is not None and isinstance(before.data.source, DialogueData) and before.data.source.spec is not None

# What is said in more ways than a model can learn by heart is acknowledged with "Noted." alone: repeating it wrongly
# would write what was never said.
spec = replace(
    before.data.source.spec,
    interactions=(16, 16),
    facts=(3, 11),
    max_distance=15,
    everyday_share=0.2,
    scene_share=0.6,
    deeds_share=0.25,
    varied_echo_probability=0.0,
    absence_share=0.14,
    unusual_values=0.12,
    several_facts_share=0.2,
    indirect_share=0.15,
    capitals_share=0.05,
    terse_share=0.08,
)

recipe = replace(
    companion,
    name="companion_scenes",
    start_from="runs/companion/stages/memory_aware_values",
    stages={
        "memory_aware_scenes": replace(
            before, updates=6100, data=replace(before.data, source=DialogueData(spec=spec), max_interactions=16)
        )
    },
)
