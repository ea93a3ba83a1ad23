"""RxT-Beta 3B-A190M, as it was published, on a TPU v5p-64: 32 devices, eight hosts.

    rxt train configs/scale/v5p_64_beta_3b.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Experts are split over eight devices; the rest is whole on every device, and rows are split over all. Interactions have
1,024 tokens of the 8,192 that the model allows; memory has all of its 4,096 slots per layer.

    rxt compile-check configs/scale/v5p_64_beta_3b.py --topology v5p:2x4x4

says what fits (benchmarks/scaling_hosts.md). No run has been measured.
"""

from dataclasses import replace
from pathlib import Path

from rxt_jax.model import presets
from rxt_jax.recipe import load_recipe
from rxt_jax.sharding import MeshConfig

small = load_recipe(Path(__file__).with_name("v5e_8_dense_300m.py"))
recipe = replace(
    small,
    name="v5p_64_beta_3b",
    model=presets.rxt_beta_3b_a190m(),
    mesh=MeshConfig(data=4, expert=8),
    tokenizer=replace(small.tokenizer, vocab_size=65_536),
)
