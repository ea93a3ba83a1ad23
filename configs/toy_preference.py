"""Preferences that only memory can decide, learnt on top of configs/toy.py by DMPO.

    rxt train configs/toy.py && rxt train configs/toy_preference.py

Every answer that recalls something has a rejected twin that names another value of the same kind.
`python benchmarks/toy_preference.py` measures what was learnt, with memory and without. Its length is not tuned yet.
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
    # The memory has not been trained yet: the stage has to teach it by preferences alone.
    start_from="runs/toy/stages/memory_pretraining",
    data=replace(toy.data, source=replace(toy.data.source, preferences=True)),
    stages={
        "preference": StageRun(
            stage=DirectMemoryPreference(preference=PreferenceConfig(beta=0.1)),
            updates=400,
            batch_size=32,
            optimizer=replace(toy.stages["memory_aware"].optimizer, learning_rate=5e-3),
            loop=toy.stages["memory_aware"].loop,
        )
    },
)
