"""The model of a billion parameters with 32 experts on a TPU v5p-64: 32 devices, eight hosts.

    rxt train configs/scale/v5p_64_experts_1b.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Experts are split over eight devices; the rest is whole on every device, and rows are split over all.

    rxt compile-check configs/scale/v5p_64_experts_1b.py --topology v5p:2x4x4

says what fits; benchmarks/scaling_hosts.md has what it said. No run has been measured. `TRAIN` and
`HELD_OUT` are files of conversations (docs/data.md), which stage 1 reads as texts.
"""

from dataclasses import replace
from pathlib import Path

from rxt_jax.model import presets
from rxt_jax.recipe import load_recipe
from rxt_jax.sharding import MeshConfig

small = load_recipe(Path(__file__).with_name("v5e_8_dense_300m.py"))
recipe = replace(
    small,
    name="v5p_64_experts_1b",
    model=presets.experts_1b(),
    mesh=MeshConfig(data=4, expert=8),
    stages={name: replace(run, batch_size=4 * run.batch_size) for name, run in small.stages.items()},
)
