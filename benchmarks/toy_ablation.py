"""What every choice of the toy recipe is worth: the recipe with one thing changed at a time.

    python benchmarks/toy_ablation.py

The last stage is shortened to a share of that of `configs/toy.py`, so the figures compare with each other, not with the
README; the stages before it are whole, because memory learns nothing before they have. Variants of the last stage begin
with the same reading stages, the others train their own. One variant per CPU core at a time. Writes `runs/ablation/` and
prints the table; what is finished there is not run again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import tyro

from rxt_jax.data.config import DialogueData
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.nn.short_convolution import ShortConvolutionConfig
from rxt_jax.recipe import Recipe, StageRun, load_recipe
from rxt_jax.stages import MemoryPretraining

FOLDER = Path("runs/ablation")
EARLY, READING = "early", ("joint_pretraining", "interaction_sft", "history_reading")
SPLITS = ("iid", "unseen_values", "unseen_keys", "unseen_phrasings", "longer")


def _layer(recipe: Recipe, **changes: object) -> Recipe:
    memory = recipe.model.memory_attention
    layer = replace(memory.layer, **changes)
    return replace(recipe, model=replace(recipe.model, memory_attention=replace(memory, layer=layer)))


def _gate(kind: str, **options: object) -> ResidualGateConfig:
    return ResidualGateConfig(kind=kind, activation="sigmoid", **options)  # type: ignore[arg-type]


def _all_slots(recipe: Recipe, slots: int = 48) -> Recipe:
    """Write every interaction into all slots, as the recipe did until 27 November 2026."""
    return _layer(_groups(recipe, 1, slots), gate=_gate("elementwise"))


def _groups(recipe: Recipe, groups: int, places: int) -> Recipe:
    recipe = _layer(recipe, slot_groups=1)  # of any number of slots
    return _layer(_model(recipe, num_slots=groups * places), slot_groups=groups)


def _interlayer(recipe: Recipe, initial: float) -> Recipe:
    layer = recipe.model.memory_attention.layer
    return _layer(
        _all_slots(recipe),
        variant="interlayer",
        inner_attention=layer.attention,
        inner_gate=_gate("learned_channel", initial=initial),
    )


def _change(recipe: Recipe, change: Callable[[StageRun], StageRun], *names: str) -> Recipe:
    """Change some stages, all of them where none is named."""
    stages = {name: change(run) if name in names or not names else run for name, run in recipe.stages.items()}
    return replace(recipe, stages=stages)


def _without(recipe: Recipe, *names: str) -> Recipe:
    return replace(recipe, stages={name: run for name, run in recipe.stages.items() if name not in names})


def _longer(recipe: Recipe, name: str) -> Recipe:
    return _change(recipe, lambda run: replace(run, updates=2 * run.updates), name)


def _before(recipe: Recipe, later: str, name: str, run: StageRun) -> Recipe:
    stages: dict[str, StageRun] = {}
    for each, its in recipe.stages.items():
        if each == later:
            stages[name] = replace(run, optimizer=its.optimizer, loop=its.loop)
        stages[each] = its
    return replace(recipe, stages=stages)


def _five_turns_first(recipe: Recipe) -> Recipe:
    """Half of the interactions with memory in conversations of five turns, then the usual nine."""
    run, data = recipe.stages["memory_aware"], recipe.data
    assert isinstance(data.source, DialogueData) and data.source.spec is not None
    spec = replace(data.source.spec, interactions=(5, 5), facts=(1, 3), max_distance=4)
    constant = replace(run.optimizer.schedule, kind="constant")
    short = replace(
        run,
        updates=round(0.9 * run.updates),
        optimizer=replace(run.optimizer, schedule=constant),
        data=replace(data, source=DialogueData(spec=spec), max_interactions=5),
    )
    rest = replace(run, updates=round(0.5 * run.updates))
    return replace(recipe, stages={"memory_aware_short": short, "memory_aware": rest})


def _model(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, model=replace(recipe.model, **changes))


def _heads(recipe: Recipe, head_dim: int, embed_dim: int | None = None) -> Recipe:
    model = recipe.model
    embed_dim = embed_dim or model.embed_dim
    heads = embed_dim // head_dim
    attention = replace(model.encoder.attention, num_query_heads=heads, num_kv_heads=heads, head_dim=head_dim)
    feed_forward = replace(model.encoder.feed_forward, mlp_dim=3 * embed_dim)
    encoder = replace(model.encoder, attention=attention, feed_forward=feed_forward)
    decoder = replace(model.decoder, attention=attention, cross_attention=attention, feed_forward=feed_forward)
    return _model(_layer(recipe, attention=attention), embed_dim=embed_dim, encoder=encoder, decoder=decoder)


def _convolutions(recipe: Recipe, encoder: tuple[int, int] | None, decoder: int | None) -> Recipe:
    """Let tokens of the encoder see so many tokens (before, behind), and those of the decoder so many before."""
    model = recipe.model
    around = None if encoder is None else ShortConvolutionConfig(before=encoder[0], after=encoder[1])
    before = None if decoder is None else ShortConvolutionConfig(before=decoder)
    return _model(
        recipe,
        encoder=replace(model.encoder, short_convolution=around),
        decoder=replace(model.decoder, short_convolution=before),
    )


def _no_induction(recipe: Recipe) -> Recipe:
    return _model(recipe, decoder=replace(recipe.model.decoder, induction=False))


def _not_in_order(recipe: Recipe) -> Recipe:
    """Let slots begin by reading what resembles them, as the recipe did until 27 November 2026."""
    return _layer(_layer(recipe, in_order=False), slot_identity=0.5, rotary=RotaryConfig())


def _tokenizer(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, tokenizer=replace(recipe.tokenizer, **changes))


def _data(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, data=replace(recipe.data, **changes))


def _optimizer(run: StageRun, **changes: object) -> StageRun:
    return replace(run, optimizer=replace(run.optimizer, **changes))


def _objective(run: StageRun, **changes: object) -> StageRun:
    return replace(run, stage=replace(run.stage, **changes))


MEMORY = ("memory_aware",)

LATE = {
    "the recipe": lambda recipe: recipe,
    "with memory_pretraining, 30 updates": lambda recipe: _before(
        _all_slots(recipe),
        "memory_aware",
        "memory_pretraining",
        StageRun(stage=MemoryPretraining(), updates=30, batch_size=32),
    ),
    "gradient across 1 write": lambda recipe: _change(
        recipe, lambda run: _objective(run, memory_gradient_steps=1), *MEMORY
    ),
    "five turns first": _five_turns_first,
    "batches of 16, half the updates": lambda recipe: _change(
        recipe, lambda run: replace(run, batch_size=16, updates=run.updates // 2), *MEMORY
    ),
    "memory with AdamW, 2e-3": lambda recipe: _change(
        recipe, lambda run: _optimizer(run, name="adamw", learning_rate=2e-3), *MEMORY
    ),
    "all slots written": _all_slots,
    "all slots written, gate: learned per slot": lambda recipe: _layer(
        _all_slots(recipe), gate=_gate("learned_slot", initial=-1.0)
    ),
    "all slots written, gate: learned per channel": lambda recipe: _layer(
        _all_slots(recipe), gate=_gate("learned_channel", initial=-1.0)
    ),
    "all slots written, gate: none (sum)": lambda recipe: _layer(_all_slots(recipe), gate=_gate("sum")),
    "gate: elementwise": lambda recipe: _layer(recipe, gate=_gate("elementwise")),
    "gate: none (replace)": lambda recipe: _layer(recipe, gate=_gate("replace")),
    "slots not in order": _not_in_order,
    "slots not in order, no slot identity": lambda recipe: _layer(_not_in_order(recipe), slot_identity=0.0),
    "interlayer, its gate nearly closed": lambda recipe: _interlayer(recipe, -3.0),
    "initial memory: random, redrawn": lambda recipe: _model(recipe, initial_memory="standard"),
    "all slots written, 16 slots": lambda recipe: _all_slots(recipe, 16),
    "all slots written, 96 slots": lambda recipe: _all_slots(recipe, 96),
    "9 groups of 32": lambda recipe: _groups(recipe, 9, 32),
    "4 groups of 32": lambda recipe: _groups(recipe, 4, 32),
    "6 groups of 24": lambda recipe: _groups(recipe, 6, 24),
    "4 groups of 48": lambda recipe: _groups(recipe, 4, 48),
}
"""Variants that the reading stages do not touch."""

WHOLE = {
    "without joint_pretraining": lambda recipe: _without(recipe, "joint_pretraining"),
    "without interaction_sft": lambda recipe: _without(recipe, "interaction_sft"),
    "without history_reading": lambda recipe: _without(recipe, "history_reading"),
    "joint_pretraining twice as long": lambda recipe: _longer(recipe, "joint_pretraining"),
    "interaction_sft twice as long": lambda recipe: _longer(recipe, "interaction_sft"),
    "history_reading twice as long": lambda recipe: _longer(recipe, "history_reading"),
    "nothing hidden in interaction_sft": lambda recipe: _change(
        recipe, lambda run: _objective(run, memory_masking=0.0), "interaction_sft"
    ),
    "no induction head": _no_induction,
    "no short convolutions": lambda recipe: _convolutions(recipe, None, None),
    "short convolutions in the encoder alone": lambda recipe: _convolutions(recipe, (2, 2), None),
    "short convolutions in the decoder alone": lambda recipe: _convolutions(recipe, None, 3),
    "short convolutions over one neighbour": lambda recipe: _convolutions(recipe, (1, 1), 1),
    "heads of 16": lambda recipe: _heads(recipe, 16),
    "width 64": lambda recipe: _heads(recipe, 32, 64),
    "width 128": lambda recipe: _heads(recipe, 32, 128),
    "vocabulary 512": lambda recipe: _tokenizer(recipe, vocab_size=512),
    "vocabulary 2048": lambda recipe: _tokenizer(recipe, vocab_size=2048),
    "unigram pieces": lambda recipe: _tokenizer(recipe, kind="unigram"),
    "numbers as one piece": lambda recipe: _tokenizer(recipe, split_digits=False),
    "subword sampling 0.05": lambda recipe: _data(recipe, subword_sampling=0.05),
    "embedding at the common rate": lambda recipe: _change(recipe, lambda run: _optimizer(run, group_rates={})),
    "rate 1e-2": lambda recipe: _change(recipe, lambda run: _optimizer(run, learning_rate=1e-2)),
}

VARIANTS = LATE | WHOLE


def _folder(name: str) -> Path:
    return FOLDER / name.replace(" ", "_").replace(",", "").replace(":", "")


def _recipe(name: str, share: float) -> Recipe:
    recipe = replace(load_recipe("configs/toy.py"), cpu_devices=None, folder=str(_folder(name)))
    recipe = _change(recipe, lambda run: replace(run, updates=round(share * run.updates)), *MEMORY)
    evaluation = replace(recipe.evaluation, splits=SPLITS, conditions=("memory",))
    recipe = replace(recipe, evaluation=evaluation)
    if name == EARLY:
        return _without(recipe, *MEMORY)
    if name in LATE:
        start = str(_folder(EARLY) / "stages" / READING[-1])
        recipe = replace(_without(recipe, *READING), start_from=start)
    return VARIANTS[name](recipe)


def _run(name: str, share: float) -> None:
    """Train and evaluate one variant, in this process."""
    from rxt_jax.run import run_recipe
    from rxt_jax.run_evaluation import evaluate_run

    recipe = _recipe(name, share)
    run_recipe(recipe, quiet=True)
    if name != EARLY:
        evaluate_run(recipe.run_folder)


def _finished(name: str) -> bool:
    done = f"stages/{READING[-1]}" if name == EARLY else "evaluation/recall.json"
    return (_folder(name) / done).exists()


def _run_all(names: list[str], share: float) -> None:
    """Run variants in processes of their own, each on one core."""
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def one(name: str) -> None:
        core = cores.get()
        command = ["taskset", "-c", str(core), sys.executable, __file__, "--only", name, "--share", str(share)]
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / f"{_folder(name).name}.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        print(f"{name}: {'done' if code == 0 else f'FAILED, see {log.name}'}", flush=True)
        cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(one, [name for name in names if not _finished(name)]))


def _table() -> str:
    head = [*SPLITS, "two of a type", "made up", "iid perplexity"]
    lines = ["| variant | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in VARIANTS:
        if not _finished(name):
            lines.append(f"| {name} |" + " |" * len(head))
            continue
        result = json.loads((_folder(name) / "evaluation/recall.json").read_text())
        measured = {split: result[split]["conditions"]["memory"] for split in SPLITS}
        shares = [measured[split]["recall"] for split in SPLITS]
        shares += [measured["iid"]["two_of_a_type"], measured["iid"]["made_up_rate"]]
        cells = [f"{100 * share:.1f}" for share in shares] + [f"{measured['iid']['answer_perplexity']:.3f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(only: str | None = None, share: float = 0.3) -> None:
    """Run what is missing and write the table; `only` runs one variant in this process.

    `share` of the recipe's updates with memory are trained.
    """
    if only is not None:
        _run(only, share)
        return
    _run_all([EARLY], share)
    _run_all(list(VARIANTS), share)
    (FOLDER / "table.md").write_text(_table() + "\n")
    print(_table())


if __name__ == "__main__":
    tyro.cli(main)
