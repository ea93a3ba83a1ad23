"""A Reactive Transformer that remembers a conversation, from nothing, on two CPU cores.

    rxt train configs/toy.py

Two CPU cores, about 11 minutes; recall of held-out conversations about 0.95 up to 8 interactions back, above 0.9 in
conversations three times as long as those it learnt from (figures: README, benchmarks/toy.md).
"""

from dataclasses import replace

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.dialogues import tiny
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import HistoryReading, InteractionSft, JointPretraining, MemoryAware, MemoryPretraining
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

# Ten things to know about somebody, each of its own type. Two of one type (a house and a locker number) are the
# hard case: recall of such pairs was 0.77 after this training, against 0.96 for the others.
ATTRIBUTES = ("cat", "trip", "food", "animal", "job", "car", "key", "aunt_gift", "house_number", "book")

spec = replace(tiny(), attributes=ATTRIBUTES, compare_share=0.0, interactions=(9, 9), max_distance=8)
optimizer = OptimizerConfig(
    name="muon",
    learning_rate=2e-2,
    b2=0.99,
    schedule=ScheduleConfig(kind="cosine", warmup_share=0.06, final_ratio=0.03),
)
loop = LoopConfig(log_every=20)

recipe = Recipe(
    name="toy",
    cpu_devices=2,
    model=presets.toy(),
    data=DataConfig(
        source=DialogueData(spec=spec),
        evaluation_source=DialogueData(spec=spec, split="iid", seed=1),
        max_length=32,
        max_interactions=9,
        text_length=40,
        overlong="cut_input_first",
        end_cut_texts=False,
    ),
    tokenizer=TokenizerConfig(vocab_size=1536, split_digits=False),
    stages={
        "joint_pretraining": StageRun(
            stage=JointPretraining(), updates=200, batch_size=64, optimizer=optimizer, loop=loop
        ),
        "interaction_sft": StageRun(stage=InteractionSft(), updates=200, batch_size=64, optimizer=optimizer, loop=loop),
        "history_reading": StageRun(stage=HistoryReading(), updates=250, batch_size=32, optimizer=optimizer, loop=loop),
        "memory_pretraining": StageRun(
            stage=MemoryPretraining(),
            updates=30,
            batch_size=32,
            optimizer=replace(optimizer, learning_rate=2e-3),
            loop=loop,
        ),
        "memory_aware": StageRun(stage=MemoryAware(), updates=900, batch_size=32, optimizer=optimizer, loop=loop),
    },
)
