"""The dense model of a billion parameters on eight H100, one host or one process per device.

    rxt train configs/scale/h100_8_dense_1b.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Every device has all parameters and moments, and its own rows. Without the devices the check simulates eight and
compares with what an H100 has, which is an estimate: the compiler for the CPU makes other buffers.

    rxt compile-check configs/scale/h100_8_dense_1b.py --topology cpu:8 --memory 74

says what fits (benchmarks/scaling_hosts.md). The recipe has not been run. `TRAIN` and `HELD_OUT` are files of
conversations (docs/data.md), which stage 1 reads as texts.
"""

from dataclasses import replace
from pathlib import Path

from rxt_jax.model import presets
from rxt_jax.recipe import load_recipe

recipe = replace(
    load_recipe(Path(__file__).with_name("v5e_8_dense_300m.py")), name="h100_8_dense_1b", model=presets.dense_1b()
)
