"""The companion: ordinary English, anything for a value, remembered over a conversation.

    rxt train configs/companion.py

What the wheel ships is made by this recipe and `rxt export runs/companion rxt_jax/companion`; hours, figures and what
it cannot do are in its model card, rxt_jax/companion/README.md.
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
optimizer = OptimizerConfig(
    name="muon",
    learning_rate=2e-2,
    b2=0.99,
    schedule=ScheduleConfig(kind="cosine", warmup_share=0.06, final_ratio=0.4),
)
last = replace(optimizer, schedule=replace(optimizer.schedule, warmup_share=0.02, final_ratio=0.02))
loop = LoopConfig(log_every=20)
reading = StageRun(
    stage=HistoryReading(remat=False), updates=300, batch_size=32, max_interactions=5, optimizer=optimizer, loop=loop
)

recipe = Recipe(
    name="companion",
    cpu_devices=2,
    model=presets.companion(),
    data=DataConfig(
        source=DialogueData(spec=spec),
        evaluation_source=DialogueData(spec=spec, split="iid", seed=1),
        max_length=48,
        max_interactions=9,
        text_length=48,
        overlong="cut_input_first",
    ),
    tokenizer=TokenizerConfig(vocab_size=2048, texts=12000),
    evaluation=EvaluationConfig(
        splits=("iid", "unseen_values", "unseen_keys", "unseen_phrasings", "all_unseen", "longer", "longest")
    ),
    stages={
        # Read the past as it was said: first a dozen properties in full sentences, then everything.
        "first_reading": replace(reading, source=DialogueData(spec=plain())),
        "history_reading": reading,
        # Read it from memory: short conversations first.
        "short_memory": StageRun(
            stage=MemoryAware(), updates=500, batch_size=32, max_interactions=5, optimizer=optimizer, loop=loop
        ),
        "memory_aware": StageRun(stage=MemoryAware(), updates=1800, batch_size=32, optimizer=last, loop=loop),
    },
)
