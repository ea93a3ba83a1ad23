"""Preferences on real conversations, from the model of configs/sgd/small.py.

    rxt train configs/sgd/small.py && rxt train configs/sgd/preference.py

A rejected answer has recalled values replaced by others of the same slot. The run ends with recall on held-out
conversations and accuracy on held-out preferences, before and after. The data are where configs/sgd/small.py finds
them (RXT_SGD_FOLDER). `python benchmarks/sgd_preference.py` compares losses (benchmarks/sgd_preference.md).
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import FileData
from rxt_jax.data.sgd import sgd_path
from rxt_jax.losses import PreferenceConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import DirectMemoryPreference

found = runpy.run_path(str(Path(__file__).with_name("small.py")))
small: Recipe = found["recipe"]
train, dev = (sgd_path(found["folder"], split, preferences=True) for split in ("train", "dev"))
before = small.stages["memory_aware"]

recipe = replace(
    small,
    name="sgd_preference",
    start_from="runs/sgd",
    data=replace(
        small.data,
        source=FileData(path=train, kind="preference_episode"),
        preference_evaluation_source=FileData(path=dev, kind="preference_episode"),
    ),
    evaluation=replace(small.evaluation, conditions=("memory", "zeroed", "shuffled")),
    stages={
        "preference": StageRun(
            stage=DirectMemoryPreference(preference=PreferenceConfig(beta=0.1)),
            updates=100,
            batch_size=16,
            optimizer=replace(before.optimizer, learning_rate=2e-3),
            loop=before.loop,
        )
    },
)
