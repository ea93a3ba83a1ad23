"""The model of a billion parameters with 32 experts on a TPU v5p-64: 32 devices, eight hosts.

    rxt train configs/scale/v5p_64_experts_1b.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Experts are split over eight devices; the rest is whole on every device, and rows are split over all.

    rxt compile-check configs/scale/v5p_64_experts_1b.py --topology v5p:2x4x4

says what fits; benchmarks/scaling_hosts.md has what it said of some stages. No run has been measured. `TRAIN` and
`HELD_OUT` are files of conversations (docs/data.md), which stage 1 reads as texts.
"""

from dataclasses import replace

from rxt_jax.data.config import DataConfig, FileData
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.sharding import MeshConfig
from rxt_jax.stages import InteractionSft, JointPretraining, MemoryAware
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

optimizer = OptimizerConfig(
    learning_rate=3e-4, schedule=ScheduleConfig(kind="cosine", warmup_share=0.02, final_ratio=0.1)
)
loop = LoopConfig(log_every=20, evaluate_every=1000, save_every=1000)
run = StageRun(stage=JointPretraining(), updates=40_000, batch_size=256, optimizer=optimizer, loop=loop)

recipe = Recipe(
    name="v5p_64_experts_1b",
    model=presets.experts_1b(),
    mesh=MeshConfig(data=4, expert=8),
    data=DataConfig(
        source=FileData(path="train.jsonl"),
        evaluation_source=FileData(path="held_out.jsonl"),
        max_length=1024,
        max_interactions=8,
        text_length=1024,
    ),
    tokenizer=TokenizerConfig(vocab_size=32768, texts=200_000),
    stages={
        "joint_pretraining": run,
        "interaction_sft": replace(run, stage=InteractionSft(), updates=10_000),
        "memory_aware": replace(run, stage=MemoryAware(), updates=10_000, batch_size=128),
    },
)
