"""The companion learns to write memory in turns: six groups of slots, each turn into the one written longest ago.

    rxt train configs/companion_turns.py

It begins with the companion that wrote all slots at every turn; initial memory, slot identity and gate start fresh.
70 minutes on one CPU core. rxt_jax/companion/README.md has what came of it.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.recipe import Recipe

found = runpy.run_path(str(Path(__file__).with_name("companion_scenes_cpu.py")))
scenes: Recipe = found["recipe"]
before = scenes.stages["memory_aware_scenes"]
# Plain facts again beside scenes and deeds: where memory is learnt anew, values have to be learnt with it.
spec = replace(found["spec"], scene_share=0.4, everyday_share=0.25, deeds_share=0.25)
memory = scenes.model.memory_attention
gate = ResidualGateConfig(kind="learned_slot", activation="sigmoid", initial=1.0)

recipe = replace(
    scenes,
    name="companion_turns",
    seed=2,
    start_from="companion",
    model=replace(
        scenes.model,
        num_slots=144,
        memory_attention=replace(memory, layer=replace(memory.layer, slot_groups=6, gate=gate)),
    ),
    stages={
        "memory_aware_turns": replace(
            before,
            updates=1900,
            optimizer=replace(before.optimizer, learning_rate=5e-3),
            data=replace(before.data, source=DialogueData(spec=spec)),
        )
    },
)
