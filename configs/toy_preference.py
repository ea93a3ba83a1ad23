"""Preferences that only memory can decide, learnt on top of configs/toy.py by DMPO.

    rxt train configs/toy.py && rxt train configs/toy_preference.py

96 % of held-out pairs right with memory, 48 % with memory zeroed; 13 minutes of training on one CPU core. Every answer
that recalls something has a rejected twin that names another value of the same kind. The run ends with preference
accuracy and recall, with memory and without, before and after; `python benchmarks/toy_preference.py` makes a table of
it (benchmarks/toy_preference.md).
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.losses import PreferenceConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import DirectMemoryPreference

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]

recipe = replace(
    toy,
    name="toy_preference",
    # Answers were never learnt from memory yet: this stage has to teach it.
    start_from="runs/toy/stages/history_reading",
    data=replace(toy.data, source=replace(toy.data.source, preferences=True)),
    stages={
        "preference": StageRun(
            # Without a share of plain likelihood both answers lose probability: pairs are told apart, replies decay.
            stage=DirectMemoryPreference(preference=PreferenceConfig(beta=0.1), sft_weight=1.0),
            updates=400,
            batch_size=32,
            optimizer=toy.stages["memory_aware"].optimizer,
            loop=toy.stages["memory_aware"].loop,
        )
    },
)
