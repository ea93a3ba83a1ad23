"""The toy after stage 4: rewards for remembered values, online preferences, or as much more of stage 4.

rxt train configs/toy.py
python benchmarks/toy_reinforcement.py before [--toy runs/toy]
python benchmarks/toy_reinforcement.py reinforcement --updates 100
python benchmarks/toy_reinforcement.py online_preference --updates 60
python benchmarks/toy_reinforcement.py memory_aware --updates 500

Each goes on from the same run and is measured on the same held-out conversations: recall, with memory as it is, zeroed
and of another conversation, and perplexity of the data's answers. Updates are to be chosen so that all take as long.
Adds a line to benchmarks/toy_reinforcement.jsonl.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from rxt_jax import load
from rxt_jax.cli.compilation_cache import use_compilation_cache
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import evaluate_split
from rxt_jax.recipe import Recipe, StageRun, load_recipe
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import LoadedRun
from rxt_jax.stages import MemoryReinforcement, OnlineMemoryPreference
from rxt_jax.stages.rollout import RolloutConfig

ROOT = Path(__file__).parents[1]
SPLITS = ("iid", "all_unseen")


def stage_run(way: str, reinforced: Recipe, toy: Recipe, updates: int) -> StageRun:
    """Describe what a way does after stage 4."""
    run = reinforced.stages["reinforcement"]
    if way == "reinforcement":
        return replace(run, updates=updates)
    if way == "online_preference":
        assert isinstance(run.stage, MemoryReinforcement)
        rollout = RolloutConfig(group="branch", group_size=4, continuation="best", answer_length=20)
        stage = OnlineMemoryPreference(reward=run.stage.reward, rollout=rollout, sft_weight=0.1, remat="none")
        return replace(run, stage=stage, updates=updates)
    # More of the same: as stage 4 ended, at a rate that its schedule still had after half of it.
    more = toy.stages["memory_aware"]
    optimizer = replace(more.optimizer, learning_rate=more.optimizer.learning_rate / 2)
    return replace(more, updates=updates, optimizer=optimizer)


def measured(run: LoadedRun, episodes: int) -> dict:
    """Measure recall in per cent and perplexity by split and condition."""
    found = {}
    for split in SPLITS:
        source = open_source(replace(run.recipe.data.evaluation_source, split=split))
        config = replace(run.recipe.evaluation, episodes=episodes, conditions=("memory", "zeroed", "shuffled"))
        result = evaluate_split(run.model, run.tokenizer, source, run.recipe.data, config)
        found[split] = result.summary()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["before", "reinforcement", "online_preference", "memory_aware"])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--toy", default="runs/toy")
    parser.add_argument("--folder", default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "toy_reinforcement.jsonl")
    options = parser.parse_args()
    use_compilation_cache()
    toy, reinforced = (load_recipe(ROOT / "configs" / f"{name}.py") for name in ("toy", "toy_reinforcement"))
    folder, seconds = options.toy, 0.0
    if options.way != "before":
        folder = options.folder or f"runs/{options.way}_{options.seed}"
        run = stage_run(options.way, reinforced, toy, options.updates)
        recipe = replace(
            reinforced, start_from=options.toy, folder=folder, seed=options.seed, stages={options.way: run}
        )
        began = time.perf_counter()
        run_recipe(recipe)
        seconds = time.perf_counter() - began
    one = {"way": options.way, "seed": options.seed, "updates": options.updates, "seconds": round(seconds)}
    one |= measured(load(folder), options.episodes)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(one) + "\n")
    for split in SPLITS:
        print(split, json.dumps(one[split])[:600])


if __name__ == "__main__":
    main()
