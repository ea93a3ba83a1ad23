"""A reward model that reads memory, taught by pairs, and the toy rewarded by it.

    rxt train configs/toy.py && rxt train configs/toy_reward_model.py

The pairs are those of configs/toy_preference.py: both answers are fluent, and memory alone tells which value is right.
The reward model then scores conversations that the toy leads, beside retention and form; recall of planted facts is
reported and not learnt from. benchmarks/after_stage_4.md has a shorter run of the kind.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.model import RewardModelConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.rewards import FactReward, learned_and_retention, with_held_out
from rxt_jax.stages import MemoryReinforcement, RewardModeling
from rxt_jax.stages.kl_budget import KlBudget
from rxt_jax.train.optimizer import OptimizerConfig

reinforced: Recipe = runpy.run_path(str(Path(__file__).with_name("toy_reinforcement.py")))["recipe"]
run = reinforced.stages["reinforcement"]
assert isinstance(run.stage, MemoryReinforcement)

recipe = replace(
    reinforced,
    name="toy_reward_model",
    model=replace(reinforced.model, reward_model=RewardModelConfig()),
    stages={
        "reward": StageRun(
            stage=RewardModeling(remat="none"),
            data=replace(reinforced.data.source, preferences=True),
            updates=300,
            batch_size=16,
            optimizer=OptimizerConfig(learning_rate=1e-3),
            loop=replace(run.loop, log_every=10, evaluate_every=100, sample_every=0),
        ),
        "reinforcement": replace(
            run,
            stage=replace(
                run.stage,
                reward=with_held_out(learned_and_retention(), FactReward()),
                policy=replace(run.stage.policy, reference_weight=0.05),
                reference="frozen",
                kl_budget=KlBudget(target=0.05),
            ),
        ),
    },
)
