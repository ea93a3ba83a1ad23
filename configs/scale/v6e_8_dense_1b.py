"""The dense model of a billion parameters on eight TPU v6e, one host.

    rxt train configs/scale/v6e_8_dense_1b.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Parameters and moments are split over all devices.

    rxt compile-check configs/scale/v6e_8_dense_1b.py --topology v6e:2x4

says what fits; benchmarks/scaling_hosts.md has what it said. No run has been measured. `TRAIN` and
`HELD_OUT` are files of conversations (docs/data.md), which stage 1 reads as texts.
"""

from dataclasses import replace
from pathlib import Path

from rxt_jax.model import presets
from rxt_jax.recipe import load_recipe
from rxt_jax.sharding import MeshConfig

recipe = replace(
    load_recipe(Path(__file__).with_name("v5e_8_dense_300m.py")),
    name="v6e_8_dense_1b",
    model=presets.dense_1b(),
    mesh=MeshConfig(data=1, fsdp=8),
)
