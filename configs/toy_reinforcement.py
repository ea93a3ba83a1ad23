"""The toy leads conversations of its own and is rewarded for the values that it remembers.

    rxt train configs/toy.py && rxt train configs/toy_reinforcement.py

Groups of 8 answers to every query (GRPO): a reply earns 1 for the value that was asked for and loses a little for
repeating itself or not ending. Another value of the conversation costs nothing: where one costs 0.5 and a third of the
answers are right, the model learns to name none (benchmarks/after_stage_4.md). benchmarks/after_stage_4.py
measures it beside more of stage 4, preferences and a reward model.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.losses import make_algorithm
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.rewards import FactReward, FormatReward, RewardSum, RewardTerm
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]
policy, advantage = make_algorithm("grpo")

recipe = replace(
    toy,
    name="toy_reinforcement",
    start_from="runs/toy",
    stages={
        "reinforcement": StageRun(
            stage=MemoryReinforcement(
                reward=RewardSum(
                    terms=(
                        RewardTerm(reward=FactReward()),
                        RewardTerm(reward=FormatReward(), weight=0.2),
                    )
                ),
                # The data's answers are remembered: what was told stays told while answers are still often wrong.
                rollout=RolloutConfig(group_size=8, answer_length=20, continuation="data"),
                policy=policy,
                advantage=advantage,
                reference="none",
                remat="none",
            ),
            updates=150,
            batch_size=4,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule=ScheduleConfig(kind="constant", warmup_share=0.0)),
            loop=LoopConfig(log_every=5, save_every=50, sample_every=50),
        )
    },
)
