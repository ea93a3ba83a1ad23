"""The companion is rewarded for naming what it remembers and for saying so where it does not know.

    rxt train configs/companion_reinforcement.py

Conversations about scenes, which it remembers badly, with a fifth of the questions about what was never told. Eight
answers to every query: the value earns 1, "you have not told me" nothing, anything else costs 1. Figures, of the
companion that wrote all slots at every turn: benchmarks/after_stage_4.md.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.losses import make_algorithm
from rxt_jax.model import presets
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.rewards import AbstentionReward, FormatReward, RewardSum, RewardTerm
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

found = runpy.run_path(str(Path(__file__).with_name("companion_scenes_cpu.py")))
scenes: Recipe = found["recipe"]
spec = replace(found["spec"], absence_share=0.2)
data = replace(
    scenes.data, source=DialogueData(spec=spec), evaluation_source=DialogueData(spec=spec, split="iid", seed=1)
)
# Not the advantage of GRPO: divided by the deviation within a group, a small price is as much as a large one.
policy, advantage = make_algorithm("dr_grpo")

recipe = replace(
    scenes,
    name="companion_reinforcement",
    seed=0,
    start_from="companion",
    model=presets.companion(),
    data=data,
    stages={
        "reinforcement": StageRun(
            stage=MemoryReinforcement(
                reward=RewardSum(
                    terms=(
                        RewardTerm(reward=AbstentionReward(confidence=0.5)),
                        RewardTerm(reward=FormatReward(), weight=0.2),
                    )
                ),
                rollout=RolloutConfig(group_size=8, answer_length=24, continuation="data"),
                policy=policy,
                advantage=advantage,
                reference="none",
                remat="none",
            ),
            updates=60,
            batch_size=4,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule=ScheduleConfig(kind="constant", warmup_share=0.0)),
            loop=LoopConfig(log_every=5, save_every=25),
        )
    },
)
