"""The companion leads conversations of its own and is rewarded for the values that it remembers.

    rxt train configs/companion_reinforcement.py

Groups of 8 answers to every query (GRPO), with its own words in memory; a reply earns 1 for the value that was asked
for, loses 0.5 for another value of the conversation, and loses for repeating itself or not ending. Nobody has measured
yet what this does to recall: compare `evaluation/` with the companion's own (rxt evaluate companion).
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

companion: Recipe = runpy.run_path(str(Path(__file__).with_name("companion.py")))["recipe"]
policy, advantage = make_algorithm("grpo")

recipe = replace(
    companion,
    name="companion_reinforcement",
    start_from="companion",
    stages={
        "reinforcement": StageRun(
            stage=MemoryReinforcement(
                reward=RewardSum(
                    terms=(
                        RewardTerm(reward=FactReward(wrong_weight=0.5)),
                        RewardTerm(reward=FormatReward(), weight=0.2),
                    )
                ),
                rollout=RolloutConfig(group_size=8, answer_length=24),
                policy=policy,
                advantage=advantage,
                reference="none",
                update_epochs=2,
                minibatches=2,
            ),
            updates=200,
            batch_size=8,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule=ScheduleConfig(kind="constant", warmup_share=0.0)),
            loop=LoopConfig(log_every=5, save_every=50),
        )
    },
)
