"""Real conversations: a small model on the Schema-Guided Dialogue episodes, on two CPU cores.

    rxt train configs/sgd/small.py

Two CPU cores, about 40 minutes; answer perplexity 4.0 with memory, 4.6 with another conversation's, 5.3 without;
values recalled 29 %, 7 %, 3 % (benchmarks/sgd.md). The data are in the folder that RXT_SGD_FOLDER names: the data set
as it is published (docs/data.md says where), or `train.jsonl` and `dev.jsonl` made of it. Other episodes:
`--data.source.path FILE --data.evaluation-source.path FILE`.
"""

import os
from dataclasses import replace

from rxt_jax.data.config import DataConfig, FileData
from rxt_jax.data.sgd import sgd_path
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import HistoryReading, InteractionSft, JointPretraining, MemoryAware, MemoryPretraining
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

folder = os.environ.get("RXT_SGD_FOLDER", "../shared/data/sgd")
attention = AttentionConfig(num_query_heads=8, num_kv_heads=8, head_dim=16, output_bias=False)
feed_forward = FeedForwardConfig(mlp_dim=384, bias=False)
toy = presets.toy()
gate = ResidualGateConfig(kind="learned_channel", activation="sigmoid", initial=-1.0)
model = replace(
    toy,
    embed_dim=128,
    num_slots=64,
    max_length=96,
    encoder=replace(toy.encoder, attention=attention, feed_forward=feed_forward),
    decoder=replace(toy.decoder, attention=attention, cross_attention=attention, feed_forward=feed_forward),
    memory_attention=replace(
        toy.memory_attention, layer=replace(toy.memory_attention.layer, attention=attention, gate=gate, start="random")
    ),
)
optimizer = OptimizerConfig(
    name="muon",
    learning_rate=2e-2,
    b2=0.99,
    schedule=ScheduleConfig(kind="cosine", warmup_share=0.06, final_ratio=0.03),
)
loop = LoopConfig(log_every=10)

recipe = Recipe(
    name="sgd",
    cpu_devices=2,
    model=model,
    data=DataConfig(
        source=FileData(path=sgd_path(folder, "train")),
        evaluation_source=FileData(path=sgd_path(folder, "dev")),
        max_length=96,
        max_interactions=25,
        text_length=96,
        overlong="cut_input_first",
        end_cut_texts=False,
        sort_pool=16,
    ),
    tokenizer=TokenizerConfig(vocab_size=4096, texts=12000),
    evaluation=EvaluationConfig(episodes=256, batch_size=64, max_new_tokens=64),
    stages={
        "joint_pretraining": StageRun(
            stage=JointPretraining(), updates=250, batch_size=64, optimizer=optimizer, loop=loop
        ),
        "interaction_sft": StageRun(stage=InteractionSft(), updates=150, batch_size=64, optimizer=optimizer, loop=loop),
        "history_reading": StageRun(
            stage=HistoryReading(), updates=200, batch_size=16, max_interactions=8, optimizer=optimizer, loop=loop
        ),
        "memory_pretraining": StageRun(
            stage=MemoryPretraining(),
            updates=30,
            batch_size=16,
            max_interactions=8,
            optimizer=replace(optimizer, learning_rate=2e-3),
            loop=loop,
        ),
        "memory_aware": StageRun(stage=MemoryAware(), updates=500, batch_size=16, optimizer=optimizer, loop=loop),
    },
)
