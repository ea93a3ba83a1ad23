"""What helps memory after stage 4: more of it, preferences, rewards, both, or a reward model.

    rxt train configs/toy.py
    python benchmarks/after_stage_4.py toy                     # every way, three seeds
    rxt train configs/sgd/small.py
    python benchmarks/after_stage_4.py sgd
    python benchmarks/after_stage_4.py companion --seeds 0     # the reward for abstaining alone

Every way goes on from the same run for about as many seconds and is measured on the same held-out conversations: recall by
distance, with memory as it is, zeroed and of another conversation; wrong and made-up answers; the perplexity of the
data's answers; words of an answer. Seeds differ in the order of the data and in what is drawn. One line of
benchmarks/after_stage_4_BASE.jsonl is one run: the command goes on with what is missing there, and
`python benchmarks/after_stage_4_report.py` writes the tables.
"""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from rxt_jax import load
from rxt_jax.cli.compilation_cache import use_compilation_cache
from rxt_jax.data.config import DataConfig, DataSource, DialogueData, MixedData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import evaluate_split
from rxt_jax.losses import AlgorithmName, PreferenceConfig, make_algorithm
from rxt_jax.model import RewardModelConfig
from rxt_jax.recipe import Recipe, StageRun, load_recipe
from rxt_jax.rewards import (
    AbstentionReward,
    FactReward,
    FormatReward,
    LearnedReward,
    Reward,
    RewardSum,
    RewardTerm,
    with_held_out,
)
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import LoadedRun
from rxt_jax.stages import DirectMemoryPreference, MemoryReinforcement, OnlineMemoryPreference, RewardModeling
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all ways go on from, and updates of which each way takes about as long as the others."""

    recipe: str
    pairs: DataSource
    splits: tuple[str | None, ...]
    answer_length: int
    max_interactions: int
    updates: dict[str, tuple[int, ...]]
    """Updates of every stage of a way."""
    confidence: float = 0.25
    """Of the reward for abstaining."""


def toy() -> tuple[Recipe, Base]:
    """Describe the embedded dialogues."""
    recipe = load_recipe(ROOT / "configs" / "toy.py")
    updates = {
        "more of stage 4": (500,),
        "DMPO": (280,),
        "MRL": (42,),
        "DMPO, then MRL": (140, 21),
        "online preferences": (90,),
        "RxRLHF": (60, 20),
        "MRL for abstaining": (42,),
    }
    pairs = recipe.data.source.with_preferences()
    assert pairs is not None
    base = Base(
        recipe="toy", pairs=pairs, splits=("iid", "all_unseen"), answer_length=20, max_interactions=9, updates=updates
    )
    return recipe, base


def sgd() -> tuple[Recipe, Base]:
    """Describe the real conversations, without the embedded ones that stage 4 had beside them."""
    recipe, preference = (load_recipe(ROOT / "configs" / "sgd" / f"{name}.py") for name in ("small", "preference"))
    assert isinstance(recipe.data.source, MixedData)
    recipe = replace(recipe, data=replace(recipe.data, source=recipe.data.source.sources[0]))
    updates = {
        "more of stage 4": (120,),
        "DMPO": (85,),
        "MRL": (16,),
        "DMPO, then MRL": (42, 8),
        "RxRLHF": (25, 8),
    }
    base = Base(
        recipe="sgd",
        pairs=preference.data.source,
        splits=(None,),
        answer_length=40,
        max_interactions=9,
        updates=updates,
    )
    return recipe, base


def companion() -> tuple[Recipe, Base]:
    """Describe the model that ships, on conversations that are hard for it, a fifth of them about what was not told."""
    recipe = load_recipe(ROOT / "configs" / "companion_reinforcement.py")
    base = Base(
        recipe="companion",
        pairs=recipe.data.source,
        splits=("iid", "all_unseen"),
        answer_length=24,
        max_interactions=9,
        updates={"MRL for abstaining": (60,)},
        confidence=0.5,
    )
    return recipe, base


BASES = {"toy": toy, "sgd": sgd, "companion": companion}


def stages_of(way: str, recipe: Recipe, base: Base, options: "Options") -> dict[str, StageRun]:
    """List what a way does."""
    updates = base.updates[way]
    if way == "more of stage 4":
        # As it went on at half its length.
        more = recipe.stages["memory_aware"]
        rate = more.optimizer.learning_rate / 2
        return {
            "memory_aware": replace(more, updates=updates[0], optimizer=replace(more.optimizer, learning_rate=rate))
        }
    if way == "DMPO":
        return {"preference": _preference(recipe, base, updates[0])}
    if way == "DMPO, then MRL":
        return {
            "preference": _preference(recipe, base, updates[0]),
            "reinforcement": _reinforcement(_facts(), base, updates[1], options),
        }
    if way == "RxRLHF":
        learned = RewardTerm(reward=LearnedReward(), standardise=True)
        return {
            "reward": StageRun(
                stage=RewardModeling(remat="none"),
                data=base.pairs,
                updates=updates[0],
                batch_size=8,
                max_interactions=base.max_interactions,
                optimizer=OptimizerConfig(learning_rate=1e-3),
                loop=LoopConfig(log_every=5),
            ),
            "reinforcement": _reinforcement(
                with_held_out(_with_form(learned), FactReward()), base, updates[1], options
            ),
        }
    if way == "online preferences":
        run = _reinforcement(_facts(), base, updates[0], options)
        rollout = RolloutConfig(group="branch", group_size=4, continuation="best", answer_length=base.answer_length)
        stage = OnlineMemoryPreference(reward=_facts(), rollout=rollout, sft_weight=0.1, remat="none")
        return {"online_preference": replace(run, stage=stage)}
    confidence = base.confidence if options.confidence is None else options.confidence
    abstention = _with_form(RewardTerm(reward=AbstentionReward(confidence=confidence)))
    reward = _facts() if way == "MRL" else abstention
    return {"reinforcement": _reinforcement(reward, base, updates[0], options)}


def _with_form(term: RewardTerm) -> RewardSum:
    """Reward, and let faults of form cost a little."""
    return RewardSum(terms=(term, RewardTerm(reward=FormatReward(), weight=0.2)))


def _facts() -> RewardSum:
    """Reward the value that is asked for; another one costs nothing."""
    return _with_form(RewardTerm(reward=FactReward()))


def _preference(recipe: Recipe, base: Base, updates: int) -> StageRun:
    before = recipe.stages["memory_aware"]
    return StageRun(
        # Without a share of plain likelihood both answers lose probability.
        stage=DirectMemoryPreference(preference=PreferenceConfig(beta=0.1), sft_weight=1.0),
        data=base.pairs,
        updates=updates,
        batch_size=8,
        max_interactions=base.max_interactions,
        optimizer=replace(before.optimizer, learning_rate=2e-3),
        loop=LoopConfig(log_every=5),
    )


def _reinforcement(reward: Reward, base: Base, updates: int, options: "Options") -> StageRun:
    policy, advantage = make_algorithm(options.algorithm)
    stage = MemoryReinforcement(
        reward=reward,
        # The data's answers are remembered: what was told stays told while answers are still often wrong.
        rollout=RolloutConfig(group_size=8, answer_length=base.answer_length, continuation="data"),
        policy=policy,
        advantage=advantage,
        reference="none",
        remat="none",
    )
    schedule = ScheduleConfig(kind="constant", warmup_share=0.0)
    return StageRun(
        stage=stage,
        updates=updates,
        batch_size=4,
        max_interactions=base.max_interactions,
        optimizer=OptimizerConfig(learning_rate=options.learning_rate, schedule=schedule),
        loop=LoopConfig(log_every=5),
    )


def seeded(data: DataConfig | DataSource, seed: int) -> DataConfig | DataSource:
    """Draw other conversations for every seed where they are generated."""
    if isinstance(data, DataConfig):
        source = seeded(data.source, seed)
        assert not isinstance(source, DataConfig)
        return replace(data, source=source)
    return replace(data, seed=data.seed + 1000 * seed) if isinstance(data, DialogueData) else data


def measured(run: LoadedRun, base: Base, recipe: Recipe, episodes: int) -> dict[str, Any]:
    """Measure every split under memory, zeroed memory and that of another conversation."""
    found = {}
    for split in base.splits:
        source = recipe.data.evaluation_source
        source = open_source(source if split is None else replace(source, split=split))
        config = replace(recipe.evaluation, episodes=episodes, conditions=("memory", "zeroed", "shuffled"))
        found[split or "held_out"] = evaluate_split(run.model, run.tokenizer, source, recipe.data, config).summary()
    return found


def rewards_of(folder: str) -> list[float]:
    """Read the reward of sampled answers over updates, oldest first."""
    lines = (json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines())
    return [round(line["reward/total"], 4) for line in lines if "reward/total" in line]


@dataclass(frozen=True)
class Options:
    """What to run."""

    base: tyro.conf.Positional[Literal["toy", "sgd", "companion"]]
    ways: tuple[str, ...] = ()
    """Empty: all of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 64
    run: str | None = None
    """The run of stage 4; None: runs/BASE."""
    updates: tuple[int, ...] = ()
    """Updates of every stage of the only way that is named; empty: those that take as long as the others."""
    learning_rate: float = 1e-4
    """Of reinforcement."""
    algorithm: AlgorithmName = "dr_grpo"
    """Of reinforcement."""
    confidence: float | None = None
    """Of the reward for abstaining; None: the base's."""
    scratch: str = "runs/after_stage_4"
    out: Path | None = None


def main(options: Options) -> None:
    """Run what is missing."""
    use_compilation_cache()
    recipe, base = BASES[options.base]()
    run = options.run or ("companion" if options.base == "companion" else f"runs/{base.recipe}")
    out = options.out or ROOT / "benchmarks" / f"after_stage_4_{options.base}.jsonl"
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []

    def keep(one: dict[str, Any]) -> None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")
        for split, result in one["splits"].items():
            found = result["conditions"]["memory"]
            keys = ("recall", "wrong_rate", "absent_rate", "made_up_rate", "answer_perplexity", "answer_words")
            print(one["way"], one["seed"], one["seconds"], split, {key: round(found[key] or 0, 3) for key in keys})

    if not any(one["way"] == "nothing" for one in done):
        before = measured(load(run), base, recipe, options.episodes)
        keep({"way": "nothing", "seed": None, "seconds": 0, "splits": before})
    for seed in options.seeds:
        for way in options.ways or tuple(base.updates):
            if any((one["way"], one["seed"]) == (way, seed) for one in done):
                continue
            own = replace(base, updates=base.updates | {way: options.updates}) if options.updates else base
            folder = f"{options.scratch}/{options.base}_{way.replace(',', '').replace(' ', '_')}_{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            model = replace(recipe.model, reward_model=RewardModelConfig()) if way == "RxRLHF" else recipe.model
            stages = {
                name: replace(run, data=seeded(run.data or recipe.data, seed))
                for name, run in stages_of(way, recipe, own, options).items()
            }
            one_run = replace(
                recipe, model=model, start_from=run, folder=folder, seed=seed, stages=stages, cpu_devices=1
            )
            began = time.perf_counter()
            run_recipe(one_run, quiet=True)
            seconds = round(time.perf_counter() - began)
            splits = measured(load(folder), base, recipe, options.episodes)
            line = {"way": way, "seed": seed, "updates": own.updates[way], "seconds": seconds}
            keep(line | {"rewards": rewards_of(folder), "splits": splits})


if __name__ == "__main__":
    main(tyro.cli(Options))
