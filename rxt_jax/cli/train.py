"""`rxt train CONFIG`: a recipe, any field of it from the command line, and its whole run."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import jax
from rich.console import Console

from rxt_jax.cli.options import parse
from rxt_jax.cli.session import open_session
from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import Report, evaluate_baseline, evaluate_preferences, evaluate_split
from rxt_jax.model import BaselineTransformer
from rxt_jax.recipe import Recipe, load_recipe
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import LoadedRun, load

__all__ = ["before_preferences", "evaluate_run", "run", "show_conversation"]

_USAGE = "usage: rxt train CONFIG [--field value ...]; CONFIG is a Python file, for example configs/toy.py"

# Names and words that no list of the embedded dialogues has: a value has to be copied, it cannot be known.
SAMPLE_CONVERSATION = (
    "Hi, I'm Ottoline and I live in Wexcombe.",
    "my dog is called Brumsel",
    "The blortle key is under the piano.",
    "How are you?",
    "what's my dog's name?",
    "Where do I live?",
    "do you remember where the blortle key is?",
    "What is my sister's name?",
)


def run(arguments: Sequence[str]) -> int:
    """Train, evaluate, converse."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE + "\nrxt train CONFIG --help lists every field of the recipe.")
        return 0 if arguments else 2
    logging.getLogger("absl").setLevel(logging.ERROR)
    recipe = load_recipe(arguments[0])
    recipe = parse(Recipe, arguments[1:], f"rxt train {arguments[0]}", default=recipe)
    if recipe.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", recipe.cpu_devices)
    console = Console()
    if not run_recipe(recipe, console=console):
        return 1
    loaded = load(recipe.run_folder)
    before = before_preferences(loaded.recipe)
    if before is not None:
        console.print(f"before the preferences, {before}:")
        first = load(before)
        evaluate_run(first._replace(recipe=loaded.recipe), console, "before")
        console.print("after them:")
    evaluate_run(loaded, console)
    show_conversation(loaded, console)
    console.print(f"\ntalk to it: rxt chat {recipe.run_folder}")
    return 0


def evaluate_run(loaded: LoadedRun, console: Console, part: str = "") -> Report:
    """Measure a run on its held-out data and write the result into its `evaluation/<part>`."""
    recipe = loaded.recipe
    held_out, splits = recipe.data.evaluation_source, {}
    measure = evaluate_baseline if isinstance(loaded.model, BaselineTransformer) else evaluate_split
    if isinstance(held_out, DialogueData):
        sources = {
            split: replace(held_out, split=split, seed=recipe.evaluation.seed) for split in recipe.evaluation.splits
        }
        spec = held_out.spec
        longest = max(spec.interactions[1], spec.longer_interactions[1], spec.longest_interactions[1])
        data = replace(recipe.data, max_interactions=longest)
    else:
        sources, data = {"held_out": held_out}, recipe.data
    for name, source in sources.items():
        splits[name] = measure(loaded.model, loaded.tokenizer, open_source(source), data, recipe.evaluation.of(name))
    report = Report(splits)
    console.print(report.table())
    console.print(report.facts_table())
    report.save(recipe.run_folder / "evaluation" / part)
    if recipe.preference_stage is not None and recipe.held_out_preferences is not None:
        source = open_source(recipe.held_out_preferences)
        own = recipe.stages[recipe.preference_stage].data
        rows = own if isinstance(own, DataConfig) else data
        preferences = evaluate_preferences(loaded.model, loaded.tokenizer, source, rows, recipe.evaluation)
        console.print(preferences.table())
        preferences.save(recipe.run_folder / "evaluation" / part)
    console.print(f"written: {recipe.run_folder / 'evaluation' / part}")
    return report


def before_preferences(recipe: Recipe) -> str | None:
    """Name the checkpoint that the first preference stage of a run begins with, None without such a stage or such
    a checkpoint."""
    if recipe.preference_stage is None:
        return None
    number = list(recipe.stages).index(recipe.preference_stage)
    return str(recipe.run_folder / "stages" / list(recipe.stages)[number - 1]) if number else recipe.start_from


def show_conversation(loaded: LoadedRun, console: Console) -> None:
    """Print a short conversation and keep it in the run's samples."""
    if not isinstance(loaded.recipe.data.source, DialogueData):
        return
    session = open_session(loaded)
    lines = []
    for query in SAMPLE_CONVERSATION:
        lines += [f"you    {query}", f"model  {session.answer(query).strip()}"]
    console.print("\n" + "\n".join(lines), highlight=False)
    folder = loaded.recipe.run_folder / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conversation.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
