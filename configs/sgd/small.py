"""Real conversations: a small model on the Schema-Guided Dialogue episodes, on CPU cores.

    rxt train configs/sgd/small.py

50 minutes on one core; values recalled 59 %, with another conversation's memory 6 %, without 2 %; answer perplexity
3.7, 5.1 and 6.0 (benchmarks/sgd.md). One conversation in four is an embedded one. The others are in the folder that
RXT_SGD_FOLDER names: the data set as it is published (docs/data.md says where), or `train.jsonl` and `dev.jsonl` made
of it. Other episodes: `--data.source.sources.0.path FILE --data.evaluation-source.path FILE`.
"""

import os
import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DataConfig, DialogueData, FileData, MixedData
from rxt_jax.data.dialogues import small
from rxt_jax.data.sgd import sgd_path
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import HistoryReading, InteractionSft, JointPretraining, MemoryAware
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

folder = os.environ.get("RXT_SGD_FOLDER", "../shared/data/sgd")
# Two layers of the kind that the companion began with, narrower; what toy and companion have learnt since has not been
# measured on these data.
base = runpy.run_path(str(Path(__file__).parents[1] / "companion.py"))["model"]
attention = replace(base.decoder.attention, num_query_heads=4, num_kv_heads=4)
feed_forward = FeedForwardConfig(mlp_dim=384, bias=False)
model = replace(
    base,
    embed_dim=128,
    num_layers=2,
    num_slots=64,
    max_length=96,
    encoder=replace(base.encoder, attention=attention, feed_forward=feed_forward),
    decoder=replace(base.decoder, attention=attention, cross_attention=attention, feed_forward=feed_forward),
    memory_attention=replace(base.memory_attention, layer=replace(base.memory_attention.layer, attention=attention)),
    scan_unroll=2,
)
optimizer = OptimizerConfig(
    name="muon",
    learning_rate=2e-2,
    b2=0.99,
    group_rates={"embedding": 3.0},
    schedule=ScheduleConfig(kind="cosine", warmup_share=0.06, final_ratio=0.1),
)
last = replace(optimizer, learning_rate=1e-2, schedule=replace(optimizer.schedule, final_ratio=0.02))
loop = LoopConfig(log_every=10)
# Nearly all values of these data occur in many conversations, so they teach to recognise values. The embedded
# dialogues, whose values are new every time, teach to spell them.
dialogues = DialogueData(spec=replace(small(), everyday_share=0.35))
data = DataConfig(
    source=MixedData(sources=(FileData(path=sgd_path(folder, "train")), dialogues), weights=(0.75, 0.25)),
    evaluation_source=FileData(path=sgd_path(folder, "dev")),
    max_length=96,
    max_interactions=25,
    text_length=96,
    overlong="cut_input_first",
    end_cut_texts=False,
    sort_pool=16,
)

recipe = Recipe(
    name="sgd",
    cpu_devices=2,
    model=model,
    data=data,
    tokenizer=TokenizerConfig(vocab_size=4096, texts=12000),
    evaluation=EvaluationConfig(episodes=256, batch_size=64, max_new_tokens=64),
    stages={
        "joint_pretraining": StageRun(
            stage=JointPretraining(), updates=250, batch_size=32, optimizer=optimizer, loop=loop
        ),
        "interaction_sft": StageRun(stage=InteractionSft(), updates=300, batch_size=32, optimizer=optimizer, loop=loop),
        "history_reading": StageRun(
            stage=HistoryReading(), updates=250, batch_size=16, max_interactions=6, optimizer=optimizer, loop=loop
        ),
        "memory_aware": StageRun(
            stage=MemoryAware(),
            updates=1500,
            batch_size=8,
            optimizer=last,
            loop=loop,
            # Values are what memory is for, and a small share of what these answers say.
            value_weight=3.0,
        ),
    },
)
