"""The dense model of 300 million parameters on eight TPU v5e, one host.

    rxt train configs/scale/v5e_8_dense_300m.py --data.source.path TRAIN --data.evaluation-source.path HELD_OUT

Every device has all parameters and moments, and its own rows.

    rxt compile-check configs/scale/v5e_8_dense_300m.py --topology v5e:2x4

says what fits; benchmarks/scaling_hosts.md has what it said. No run has been measured. `TRAIN` and
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
run = StageRun(stage=JointPretraining(), updates=40_000, batch_size=64, optimizer=optimizer, loop=loop)

recipe = Recipe(
    name="v5e_8_dense_300m",
    model=presets.dense_300m(),
    mesh=MeshConfig(data=8),
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
        "memory_aware": replace(run, stage=MemoryAware(), updates=10_000, batch_size=32),
    },
)
