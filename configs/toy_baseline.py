"""The stateless baseline of configs/toy.py: same conversations, as many parameters, the past read again as text.

    rxt train configs/toy_baseline.py

Two CPU cores, about 25 minutes (figures: benchmarks/baseline.md).
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.model import presets
from rxt_jax.recipe import Recipe
from rxt_jax.stages import ConversationSft

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]
last = toy.stages["memory_aware"]

recipe = replace(
    toy,
    name="toy_baseline",
    # Training conversations have up to 191 tokens, those of the split `longer` up to 474.
    model=presets.baseline_like(toy.model, max_length=512),
    data=replace(toy.data, conversation_length=192),
    stages={"conversation_sft": replace(last, stage=ConversationSft(), updates=1200)},
)
