"""A Reactive Transformer that remembers what you tell it, from nothing, on two CPU cores.

    rxt train configs/toy.py

At most 15 minutes on two CPU cores, installation included (figures: README, benchmarks/toy.md). The data are those of
the companion (configs/companion.py), which is wider and learns for longer.
"""

from dataclasses import replace

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.dialogues import plain, small
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import HistoryReading, MemoryAware
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

spec = small()
# The rate falls little until the last stage, which ends near zero.
optimizer = OptimizerConfig(
    name="muon",
    learning_rate=2e-2,
    b2=0.99,
    schedule=ScheduleConfig(kind="cosine", warmup_share=0.06, final_ratio=0.4),
)
last = replace(optimizer, schedule=replace(optimizer.schedule, warmup_share=0.02, final_ratio=0.02))
loop = LoopConfig(log_every=20)
reading = StageRun(
    stage=HistoryReading(remat=False), updates=200, batch_size=32, max_interactions=5, optimizer=optimizer, loop=loop
)

recipe = Recipe(
    name="toy",
    cpu_devices=2,
    model=presets.toy(),
    data=DataConfig(
        source=DialogueData(spec=spec),
        evaluation_source=DialogueData(spec=spec, split="iid", seed=1),
        max_length=40,
        max_interactions=9,
        text_length=40,
        overlong="cut_input_first",
    ),
    tokenizer=TokenizerConfig(vocab_size=2048),
    evaluation=EvaluationConfig(episodes=64, batch_size=32),
    stages={
        # Read the past as it was said: first a dozen properties in full sentences, then everything.
        "first_reading": replace(reading, source=DialogueData(spec=plain())),
        "history_reading": replace(reading, updates=150),
        # Read it from memory: short conversations first.
        "short_memory": StageRun(
            stage=MemoryAware(), updates=250, batch_size=32, max_interactions=5, optimizer=optimizer, loop=loop
        ),
        "memory_aware": StageRun(stage=MemoryAware(), updates=400, batch_size=32, optimizer=last, loop=loop),
    },
)
