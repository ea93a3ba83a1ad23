"""Which preference losses help memory: DMPO on real conversations, several losses, several seeds.

    rxt train configs/sgd/small.py && python benchmarks/sgd_preference.py

Every run begins with the same model and differs in the order of the data and in the loss. Results are kept in
benchmarks/sgd_preference.json as they come, so that the command goes on where it stopped; the table is
benchmarks/sgd_preference.md.
"""

import json
import runpy
import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import tyro

from rxt_jax.data.config import FileData
from rxt_jax.data.faults import ReadReport
from rxt_jax.data.sources import open_source, read_records
from rxt_jax.evaluation import evaluate_preferences, evaluate_split
from rxt_jax.losses import PreferenceConfig
from rxt_jax.recipe import Recipe
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import LoadedRun, load
from rxt_jax.stages import DirectMemoryPreference

HERE = Path(__file__).parent
NEUTRAL = "Could you tell me that once more, please?"
"""The data have no neutral answers; this one recalls nothing, rightly or wrongly."""

VARIANTS = {
    "sigmoid": DirectMemoryPreference(preference=PreferenceConfig(beta=0.1)),
    "anchored": DirectMemoryPreference(preference=PreferenceConfig(beta=0.1), anchor_weight=0.1),
    "ipo": DirectMemoryPreference(preference=PreferenceConfig(loss="ipo", beta=1.0)),
    "simpo": DirectMemoryPreference(preference=PreferenceConfig(loss="simpo", beta=2.0, margin=0.5), reference="none"),
    "sigmoid + sft": DirectMemoryPreference(preference=PreferenceConfig(beta=0.1), sft_weight=1.0),
    "sft on chosen": DirectMemoryPreference(preference=PreferenceConfig(loss="sft"), reference="none"),
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 40
    batch_size: int = 8
    learning_rate: float = 2e-3
    results: Path = HERE / "sgd_preference.json"


def with_neutral(data: FileData, folder: Path) -> str:
    """Copy preference episodes and give every pair the neutral answer."""
    target = folder / "preferences_with_neutral.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as sink:
        for episode in read_records(data, ReadReport()):
            for interaction in episode["interactions"]:
                if interaction["rejected"]:
                    interaction["neutral"] = {"answer": NEUTRAL}
            sink.write(json.dumps(episode) + "\n")
    return str(target)


def measure(run: LoadedRun, recipe: Recipe) -> dict[str, Any]:
    """Accuracy on held-out pairs, and recall and perplexity on held-out conversations."""
    data, evaluation = recipe.data, recipe.evaluation
    pairs = open_source(data.held_out_preferences)
    preferences = evaluate_preferences(
        run.model, run.tokenizer, pairs, data, replace(evaluation, episodes=384, conditions=("memory", "zeroed"))
    ).summary()
    only = replace(evaluation, conditions=("memory",))
    split = evaluate_split(run.model, run.tokenizer, open_source(data.evaluation_source), data, only)
    recall = split.conditions["memory"].summary()
    return {
        "accuracy": preferences["conditions"]["memory"]["accuracy"],
        "accuracy_by_mean": preferences["conditions"]["memory"]["accuracy_by_mean"],
        "accuracy_zeroed": preferences["conditions"]["zeroed"]["accuracy"],
        "log_probs_chosen": preferences["conditions"]["memory"]["log_probs_chosen"],
        "recall": recall["recall"],
        "answer_perplexity": recall["answer_perplexity"],
        "value_tokens": recall["value_token_accuracy"],
        "pairs": preferences["pairs"],
        "asked": split.conditions["memory"].asked(),
    }


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    base: Recipe = runpy.run_path(str(HERE.parent / "configs" / "sgd" / "preference.py"))["recipe"]
    jax.config.update("jax_num_cpu_devices", base.cpu_devices)
    # Seeds of one loss share their compiled programs.
    jax.config.update("jax_compilation_cache_dir", "runs/compiled")
    found = json.loads(options.results.read_text()) if options.results.is_file() else {}

    def keep(name: str, result: dict[str, Any]) -> None:
        found[name] = result
        options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(result), flush=True)

    if "before" not in found:
        keep("before", measure(load(base.start_from), base))
    for seed in options.seeds:
        for name in options.variants:
            if f"{name}, seed {seed}" in found:
                continue
            recipe = _recipe(base, name, seed, options)
            shutil.rmtree(recipe.run_folder, ignore_errors=True)
            began = time.perf_counter()
            run_recipe(recipe, quiet=True)
            seconds = time.perf_counter() - began
            keep(f"{name}, seed {seed}", measure(load(recipe.run_folder), recipe) | {"seconds": round(seconds)})
    write_table(found, options)


def _recipe(base: Recipe, name: str, seed: int, options: Options) -> Recipe:
    folder, data = Path("runs") / "sgd_preferences" / f"{name.replace(' ', '_')}_{seed}", base.data
    assert isinstance(data.source, FileData)
    if VARIANTS[name].anchor_weight:
        data = replace(data, source=replace(data.source, path=with_neutral(data.source, folder.parent)))
    run = base.stages["preference"]
    optimizer = replace(run.optimizer, learning_rate=options.learning_rate)
    run = replace(
        run, stage=VARIANTS[name], updates=options.updates, batch_size=options.batch_size, optimizer=optimizer
    )
    return replace(base, folder=str(folder), seed=seed, data=data, stages={"preference": run})


COLUMNS = {
    "pairs right": ("accuracy", 100, 1),
    "memory zeroed": ("accuracy_zeroed", 100, 1),
    "values recalled": ("recall", 100, 1),
    "tokens of values": ("value_tokens", 100, 1),
    "log p chosen": ("log_probs_chosen", 1, 1),
    "answer perplexity": ("answer_perplexity", 1, 2),
}


def write_table(found: dict[str, Any], options: Options) -> None:
    """Write mean and range over the seeds."""
    before = found["before"]
    lines = [
        f"| loss | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 1) + "|",
        f"| before | {' | '.join(f'{scale * before[key]:.{digits}f}' for key, scale, digits in COLUMNS.values())} |",
    ]
    for name in options.variants:
        runs = [found[key] for seed in options.seeds if (key := f"{name}, seed {seed}") in found]
        if not runs:
            continue
        cells = []
        for key, scale, digits in COLUMNS.values():
            values = [scale * run[key] for run in runs]
            mean = statistics.mean(values)
            cells.append(f"{mean:.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    target = HERE / "sgd_preference.md"
    old = target.read_text(encoding="utf-8") if target.is_file() else "# Preferences on real conversations\n\n"
    head, _, rest = old.partition("<!-- table -->")
    tail = rest.partition("<!-- /table -->")[2]
    table = "\n".join(lines)
    target.write_text(f"{head}<!-- table -->\n\n{table}\n\n<!-- /table -->{tail or chr(10)}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
