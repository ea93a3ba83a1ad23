"""Preferences on real conversations, from the model of configs/sgd/small.py.

    rxt train configs/sgd/small.py && rxt train configs/sgd/preference.py

A rejected answer has recalled values replaced by others of the same slot. The run ends with recall on `dev.jsonl` and
accuracy on `preferences_dev.jsonl`, before and after. `python benchmarks/sgd_preference.py` compares losses
(benchmarks/sgd_preference.md).
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import FileData
from rxt_jax.losses import PreferenceConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import DirectMemoryPreference

small: Recipe = runpy.run_path(str(Path(__file__).with_name("small.py")))["recipe"]
before = small.stages["memory_aware"]

recipe = replace(
    small,
    name="sgd_preference",
    start_from="runs/sgd",
    data=replace(
        small.data,
        source=FileData(path="../shared/data/sgd/preferences_train.jsonl", kind="preference_episode"),
        preference_evaluation_source=FileData(
            path="../shared/data/sgd/preferences_dev.jsonl", kind="preference_episode"
        ),
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
