"""RxT-Alpha Mini, as it was published, on eight TPU v5e, one host.

    rxt train configs/scale/v5e_8_alpha_mini.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Every device has all parameters and moments, and its own rows.

    rxt compile-check configs/scale/v5e_8_alpha_mini.py --topology v5e:2x4

says what fits (benchmarks/scaling_hosts.md). No run has been measured.
"""

from dataclasses import replace
from pathlib import Path

from rxt_jax.model import presets
from rxt_jax.recipe import load_recipe

small = load_recipe(Path(__file__).with_name("v5e_8_dense_300m.py"))
recipe = replace(
    small,
    name="v5e_8_alpha_mini",
    model=presets.rxt_alpha_mini(),
    tokenizer=replace(small.tokenizer, vocab_size=10_000),
)
