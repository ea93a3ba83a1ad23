"""What every choice of the toy recipe is worth: the recipe with one thing changed at a time.

    python benchmarks/toy_ablation.py

The base is the toy recipe with a gate learned per channel, which it had before this table was made; the first row is
the recipe as it is. Stages 1, 2 and history reading are trained once where a variant does not touch them. Stage 4 is
shorter than in `configs/toy.py`, so the figures compare with each other, not with the README. One variant per CPU core
at a time. Writes `runs/ablation/` and prints the table; what is finished there is not run again.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import tyro

from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.recipe import Recipe, load_recipe

FOLDER = Path("runs/ablation")
STAGES = ("joint_pretraining", "interaction_sft", "history_reading", "memory_pretraining", "memory_aware")
EARLY = ("early", "early without joint_pretraining", "early without interaction_sft")


def _layer(recipe: Recipe, **changes: object) -> Recipe:
    memory = recipe.model.memory_attention
    layer = replace(memory.layer, **changes)
    return replace(recipe, model=replace(recipe.model, memory_attention=replace(memory, layer=layer)))


def _gate(kind: str, **options: object) -> ResidualGateConfig:
    return ResidualGateConfig(kind=kind, activation="sigmoid", **options)  # type: ignore[arg-type]


def _interlayer(recipe: Recipe, initial: float) -> Recipe:
    layer = recipe.model.memory_attention.layer
    return _layer(
        recipe,
        variant="interlayer",
        inner_attention=layer.attention,
        inner_gate=_gate("learned_channel", initial=initial),
    )


def _stage(recipe: Recipe, **changes: object) -> Recipe:
    run = recipe.stages["memory_aware"]
    return replace(recipe, stages=recipe.stages | {"memory_aware": replace(run, stage=replace(run.stage, **changes))})


def _optimizer(recipe: Recipe, **changes: object) -> Recipe:
    run = recipe.stages["memory_aware"]
    changed = replace(run, optimizer=replace(run.optimizer, **changes))
    return replace(recipe, stages=recipe.stages | {"memory_aware": changed})


VARIANTS = {
    "the recipe: gate elementwise": lambda recipe: _layer(recipe, gate=_gate("elementwise")),
    "base": lambda recipe: recipe,
    "base, other training conversations": lambda recipe: replace(
        recipe, data=replace(recipe.data, source=replace(recipe.data.source, seed=7))
    ),
    "without joint_pretraining": lambda recipe: _from(recipe, EARLY[1], "history_reading"),
    "without interaction_sft": lambda recipe: _from(recipe, EARLY[2], "history_reading"),
    "without history_reading": lambda recipe: _from(recipe, EARLY[0], "interaction_sft"),
    "without memory_pretraining": lambda recipe: replace(
        recipe, stages={"memory_aware": recipe.stages["memory_aware"]}
    ),
    "initial memory: random, redrawn": lambda recipe: replace(
        recipe, model=replace(recipe.model, initial_memory="standard")
    ),
    "no slot identity": lambda recipe: _layer(recipe, slot_identity=0.0),
    "gate: learned per slot": lambda recipe: _layer(recipe, gate=_gate("learned_slot", initial=-1.0)),
    "gate: none (sum)": lambda recipe: _layer(recipe, gate=_gate("sum")),
    "interlayer, its gate nearly closed": lambda recipe: _interlayer(recipe, -3.0),
    "gradient across 1 write": lambda recipe: _stage(recipe, memory_gradient_steps=1),
    "8 slots": lambda recipe: replace(recipe, model=replace(recipe.model, num_slots=8)),
    "64 slots": lambda recipe: replace(recipe, model=replace(recipe.model, num_slots=64)),
    "stage 4 with AdamW, 2e-3": lambda recipe: _optimizer(recipe, name="adamw", learning_rate=2e-3),
}


def _folder(name: str) -> Path:
    return FOLDER / name.replace(" ", "_").replace(",", "").replace(":", "")


def _from(recipe: Recipe, early: str, stage: str) -> Recipe:
    return replace(recipe, start_from=str(_folder(early) / "stages" / stage))


def _early(recipe: Recipe, name: str) -> Recipe:
    left_out = name.removeprefix(EARLY[0]).removeprefix(" without ")
    return replace(recipe, stages={each: recipe.stages[each] for each in STAGES[:3] if each != left_out})


def _recipe(name: str, updates: int) -> Recipe:
    recipe = replace(load_recipe("configs/toy.py"), cpu_devices=None, folder=str(_folder(name)))
    if name in EARLY:
        return _early(recipe, name)
    stages = {each: recipe.stages[each] for each in STAGES[3:]}
    stages["memory_aware"] = replace(stages["memory_aware"], updates=updates)
    evaluation = replace(recipe.evaluation, episodes=128, splits=("iid", "longer"), conditions=("memory",))
    recipe = _layer(recipe, gate=_gate("learned_channel", initial=-1.0))
    recipe = replace(recipe, stages=stages, evaluation=evaluation)
    return VARIANTS[name](_from(recipe, EARLY[0], "history_reading"))


def _run(name: str, updates: int) -> None:
    """Train and evaluate one variant, in this process."""
    from rich.console import Console

    from rxt_jax.cli.train import evaluate_run
    from rxt_jax.run import run_recipe
    from rxt_jax.run_folder import load

    recipe = _recipe(name, updates)
    run_recipe(recipe, quiet=True)
    if name not in EARLY:
        evaluate_run(load(recipe.run_folder), Console())


def _finished(name: str) -> bool:
    done = "stages/history_reading" if name in EARLY else "evaluation/recall.json"
    return (_folder(name) / done).exists()


def _run_all(names: list[str], updates: int) -> None:
    """Run variants in processes of their own, each on one core."""
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def one(name: str) -> None:
        core = cores.get()
        command = ["taskset", "-c", str(core), sys.executable, __file__, "--only", name, "--updates", str(updates)]
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / f"{_folder(name).name}.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        print(f"{name}: {'done' if code == 0 else f'FAILED, see {log.name}'}", flush=True)
        cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(one, [name for name in names if not _finished(name)]))


def _table(updates: int) -> str:
    buckets = {"iid": ("1", "2", "3-4", "5-8"), "longer": ("1", "3-4", "9-16", "17+")}
    head = [f"{split} {bucket}" for split, names in buckets.items() for bucket in names]
    lines = ["| variant | " + " | ".join([*head, "iid perplexity"]) + " |", "|---" * (len(head) + 2) + "|"]
    for name in VARIANTS:
        if not _finished(name):
            lines.append(f"| {name} |" + " |" * (len(head) + 1))
            continue
        result = json.loads((_folder(name) / "evaluation/recall.json").read_text())
        cells = [
            f"{100 * result[split]['conditions']['memory']['recall_by_bucket'][bucket]:.0f}"
            for split, names in buckets.items()
            for bucket in names
        ]
        perplexity = result["iid"]["conditions"]["memory"]["answer_perplexity"]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{perplexity:.3f}"]) + " |")
    return "\n".join(lines)


def main(only: str | None = None, updates: int = 300) -> None:
    """Run what is missing and write the table; `only` runs one variant in this process."""
    if only is not None:
        _run(only, updates)
        return
    _run_all(list(EARLY), updates)
    _run_all(list(VARIANTS), updates)
    table = _table(updates)
    (FOLDER / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    tyro.cli(main)
