"""A Reactive Transformer that remembers what you tell it, from nothing, on two CPU cores.

    rxt train configs/toy.py

Eleven minutes on two CPU cores (figures: README, benchmarks/toy.md). The data are those of
the companion (configs/companion.py), which is wider and learns for longer.
"""

from dataclasses import replace

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.dialogues import small
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import HistoryReading, InteractionSft, JointPretraining, MemoryAware
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

spec = small()
optimizer = OptimizerConfig(
    name="muon",
    learning_rate=2e-2,
    b2=0.99,
    # Pieces have to be told apart before they can be copied.
    group_rates={"embedding": 3.0},
    schedule=ScheduleConfig(kind="cosine", warmup_share=0.06, final_ratio=0.1),
)
last = replace(optimizer, learning_rate=1e-2, schedule=replace(optimizer.schedule, final_ratio=0.02))
loop = LoopConfig(log_every=20)

recipe = Recipe(
    name="toy",
    cpu_devices=2,
    model=presets.toy(),
    data=DataConfig(
        source=DialogueData(spec=spec),
        evaluation_source=DialogueData(spec=spec, split="iid", seed=1),
        max_length=48,
        max_interactions=9,
        text_length=48,
        overlong="cut_input_first",
        end_cut_texts=False,
    ),
    # Few pieces, so that each is written often enough to be copied; fewer make rows longer and learn no sooner.
    tokenizer=TokenizerConfig(vocab_size=1024),
    evaluation=EvaluationConfig(episodes=64, batch_size=32),
    # Small batches: twice the updates at half the rows learn more from the same sentences.
    stages={
        # Cross-attention learns to copy from the text at hand, which is why these two come first.
        "joint_pretraining": StageRun(
            stage=JointPretraining(), updates=160, batch_size=32, optimizer=optimizer, loop=loop
        ),
        # Half of the text at hand is hidden from cross-attention: what an answer repeats has to be copied from its own
        # row as well, which some seeds otherwise learn late or never.
        "interaction_sft": StageRun(
            stage=InteractionSft(memory_masking=0.5), updates=300, batch_size=32, optimizer=optimizer, loop=loop
        ),
        # Then from the past as it was said, then from memory.
        "history_reading": StageRun(
            stage=HistoryReading(),
            updates=250,
            batch_size=16,
            max_interactions=6,
            optimizer=optimizer,
            loop=loop,
        ),
        "memory_aware": StageRun(stage=MemoryAware(), updates=2100, batch_size=8, optimizer=last, loop=loop),
    },
)
