"""A run from its recipe to its folder: tokenizer, model, stages in order.

recipe.json  tokenizer.model  stages/<name>/  metrics.jsonl  tensorboard/  evaluation/  samples/
"""

from dataclasses import replace

import jax
from rich.console import Console

from rxt_jax.checkpoint import check_place
from rxt_jax.data.rows import RowEncoder
from rxt_jax.processes import is_writer
from rxt_jax.recipe import Recipe
from rxt_jax.report import note_data
from rxt_jax.run_data import Sources, make_batches, open_tokenizer, with_config
from rxt_jax.run_folder import claim_folder, write_recipe
from rxt_jax.run_parameters import Beginning, describe_parameters, first_parameters
from rxt_jax.run_stage import StageInFolder
from rxt_jax.sharding import make_mesh
from rxt_jax.train.profiling import Profile
from rxt_jax.train.tracker import Tracker

__all__ = ["make_batches", "run_recipe"]


def run_recipe(
    recipe: Recipe, *, quiet: bool = False, console: Console | None = None, profile: Profile | None = None
) -> bool:
    """Train every stage that is not finished; return whether all stages are finished.

    A run that was interrupted goes on where it stopped. A folder that belongs to another recipe is an error. `profile`
    names updates to trace. Of several processes (`rxt_jax.processes`) all call this, and see one folder.
    """
    writes = is_writer()
    quiet = quiet or not writes
    console = console if console is not None and writes else Console(quiet=quiet)
    folder = recipe.run_folder
    mesh = make_mesh(recipe.mesh)
    check_place(folder)
    claim_folder(recipe, folder)
    # Every process reads the data, and sets the same records aside.
    sources = Sources(folder / "quarantine" / ("" if writes else f"process_{jax.process_index()}"), console)
    first = sources.open(recipe.data.source, "train", "training")
    sources.open(recipe.data.evaluation_source, "evaluation", "held-out")
    reads = {name: recipe.data_of(run) for name, run in recipe.stages.items()}
    training = {name: sources.open(data.source, name, f"{name} training") for name, data in reads.items()}
    held_out = {
        name: sources.open(run.stage.held_out(reads[name]), f"{name}_held_out", f"{name} held-out")
        for name, run in recipe.stages.items()
    }
    if apart := [name for name, run in recipe.stages.items() if run.data is not None]:
        # Options like --data.source.path do not reach these.
        console.print(f"with data of their own: {', '.join(apart)}")
    tokenizer = open_tokenizer(recipe, folder, first, *training.values())
    recipe = replace(recipe, model=replace(recipe.model, vocab_size=tokenizer.vocab_size))
    if writes:
        write_recipe(recipe, folder)
    encoder = RowEncoder(tokenizer, recipe.data)
    graphdef, params = describe_parameters(recipe, mesh, console)
    beginning = Beginning(lambda: first_parameters(recipe, params, console))
    with Tracker(folder if writes else None) as tracker:
        for stream, (name, run) in enumerate(recipe.stages.items()):
            stage = StageInFolder(recipe, name, run, stream, mesh, graphdef, params, tokenizer, tracker, quiet, profile)
            own = with_config(encoder, reads[name])
            beginning, finished = stage.train(beginning, training[name], held_out[name], own, console)
            if not finished:
                console.print(f"stopped in {name}; the same command goes on from here")
                return False
    console.print(f"data: {encoder.report.summary()}")
    if writes:
        note_data(folder, sources.account() | {"rows": encoder.report.as_json()})
    return True
