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
optimizer = replace(last.optimizer, learning_rate=1.2e-2)

recipe = replace(
    toy,
    name="toy_baseline",
    # Nine in ten training conversations have at most 320 tokens; those of the split `longer` have up to 900.
    model=presets.baseline_like(toy.model, max_length=1024),
    data=replace(toy.data, conversation_length=320),
    # Conversations of over a hundred turns are more than it can read at once.
    evaluation=replace(toy.evaluation, splits=tuple(name for name in toy.evaluation.splits if name != "longest")),
    stages={
        "conversation_sft": replace(last, stage=ConversationSft(), updates=2000, batch_size=16, optimizer=optimizer)
    },
)
