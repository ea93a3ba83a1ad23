"""Real conversations, as configs/sgd/small.py, for one GPU or TPU: a model of the companion's size, more updates, and
one conversation in five from the embedded dialogues, which teach to copy what no training text names.

    rxt train configs/sgd/accelerator.py --model.dtype bfloat16 --data.workers 8

The data are where configs/sgd/small.py finds them (RXT_SGD_FOLDER). Figures: benchmarks/sgd.md.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData, MixedData
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import HistoryReading, InteractionSft, JointPretraining, MemoryAware
from rxt_jax.train.loop import LoopConfig

here = Path(__file__)
small: Recipe = runpy.run_path(str(here.with_name("small.py")))["recipe"]
companion: Recipe = runpy.run_path(str(here.parents[1] / "companion.py"))["recipe"]
optimizer = replace(small.stages["memory_aware"].optimizer, group_rates={"embedding": 3.0})
last = replace(optimizer, learning_rate=1e-2, schedule=replace(optimizer.schedule, final_ratio=0.01))
dialogues = companion.stages["memory_aware_scenes"].data
assert dialogues is not None and isinstance(dialogues.source, DialogueData)
loop = LoopConfig(log_every=50)
data = replace(
    small.data,
    source=MixedData(sources=(small.data.source, dialogues.source), weights=(4.0, 1.0)),
    # Tool results are long, and values stand in them.
    max_length=128,
    text_length=128,
)

recipe = replace(
    small,
    name="sgd_accelerator",
    model=replace(presets.companion(), num_slots=96, max_length=128),
    data=data,
    stages={
        "joint_pretraining": StageRun(
            stage=JointPretraining(), updates=300, batch_size=64, optimizer=optimizer, loop=loop
        ),
        "interaction_sft": StageRun(stage=InteractionSft(), updates=400, batch_size=64, optimizer=optimizer, loop=loop),
        "history_reading": StageRun(
            stage=HistoryReading(), updates=400, batch_size=32, max_interactions=8, optimizer=optimizer, loop=loop
        ),
        "memory_aware": StageRun(
            # For an accelerator: nothing is computed twice, and all interactions share a call.
            stage=MemoryAware(interactions_per_call=25, remat="none"),
            updates=1500,
            batch_size=16,
            optimizer=last,
            loop=loop,
            data=replace(data, value_weight=3.0),
        ),
    },
)
