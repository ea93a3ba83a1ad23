"""A run from its recipe to its folder: tokenizer, model, stages in order, evaluation, a sample conversation.

recipe.json  tokenizer.model  stages/<name>/  metrics.jsonl  tensorboard/  evaluation/  samples/
"""

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.data.loader import (
    ConversationBatches,
    EpisodeBatches,
    InteractionBatches,
    PreferenceBatches,
    Shard,
    TextBatches,
)
from rxt_jax.data.prepared import PreparedEpisodes
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import EpisodeSource, leaves, open_source
from rxt_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import train_tokenizer
from rxt_jax.model import AnyModelConfig, make_model
from rxt_jax.recipe import Recipe, StageRun, to_json
from rxt_jax.run_folder import check_tokenizer, claim_folder, first_difference, load, run_and_stage, write_recipe
from rxt_jax.sharding import batch_shardings, make_mesh, place_batch, state_shardings
from rxt_jax.train.groups import flat_parameters, with_parameters
from rxt_jax.train.loop import LoopResult, run_loop
from rxt_jax.train.metrics import MetricWindow
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.reference import precompute_reference
from rxt_jax.train.state import TrainState, make_train_state
from rxt_jax.train.step import make_train_step, with_reference
from rxt_jax.train.tracker import Tracker

__all__ = ["build_model", "make_batches", "run_recipe"]

_HELD_OUT_BATCHES = 4


def build_model(config: AnyModelConfig, seed: int) -> Any:
    """Make a model with fresh parameters, in one compiled program.

    It runs once, so most of the time is the compiler's. On the CPU half of its work gives the same numbers.
    """

    def make() -> nnx.State:
        return nnx.split(make_model(config, rngs=nnx.Rngs(seed)))[1]

    graphdef = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(seed))))[0]
    # Level 0 would be quicker still, but changes the numbers. Other platforms have no such choice.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return nnx.merge(graphdef, jax.jit(make, compiler_options=options)())


def make_batches(
    run: StageRun,
    source: EpisodeSource,
    encoder: RowEncoder,
    seed: int,
    *,
    held_out: bool = False,
    model: Any = None,
    file: Path | None = None,
) -> Any:
    """Choose the rows that a stage trains on; those of `held_out` data are never sampled. A stage with a precomputed
    reference wants the model that is the reference, and a file to keep its log-probabilities in."""
    kinds = {
        "joint_pretraining": TextBatches,
        "interaction_sft": InteractionBatches,
        "conversation_sft": ConversationBatches,
        "direct_memory_preference": PreferenceBatches,
    }
    batches = kinds.get(run.stage.kind, EpisodeBatches)
    config = encoder.config
    if run.max_interactions is not None:
        config = replace(config, max_interactions=run.max_interactions)
    if held_out:
        config = replace(config, subword_sampling=0.0)
    if config != encoder.config:
        encoder = RowEncoder(encoder.tokenizer, config, encoder.report)
    shard = Shard(jax.process_index(), jax.process_count())
    options: dict[str, Any] = {}
    if batches is EpisodeBatches:
        options["window"] = getattr(run.stage, "window", None)
    elif getattr(run.stage, "reference", None) == "precomputed":
        if model is None or file is None:
            raise ValueError("a precomputed reference needs the model that it is, and a file.")
        options["reference"] = precompute_reference(run.stage, model, source, encoder, file, batch_size=run.batch_size)
    return batches(source, encoder, batch_size=run.batch_size, seed=seed, shard=shard, **options)


def run_recipe(recipe: Recipe, *, quiet: bool = False, console: Console | None = None) -> bool:
    """Train every stage that is not finished, then evaluate; return whether all stages are finished.

    A run that was interrupted goes on where it stopped. A folder that belongs to another recipe is an error.
    """
    console = console or Console(quiet=quiet)
    folder = recipe.run_folder
    mesh = make_mesh(recipe.mesh)
    claim_folder(recipe, folder)
    source = open_source(recipe.data.source, folder / "quarantine" / "train.jsonl")
    held_out = open_source(recipe.data.evaluation_source, folder / "quarantine" / "evaluation.jsonl")
    preferences = None
    if recipe.data.held_out_preferences is not None and recipe.has_preferences:
        preferences = open_source(recipe.data.held_out_preferences, folder / "quarantine" / "preferences.jsonl")
    for name, each in (("training", source), ("held-out", held_out), ("held-out preference", preferences)):
        if each is not None and each.report is not None:
            console.print(f"{name} data: {each.report.summary()}")
    tokenizer = _open_tokenizer(recipe, folder, source)
    recipe = replace(recipe, model=replace(recipe.model, vocab_size=tokenizer.vocab_size))
    write_recipe(recipe, folder)
    encoder = RowEncoder(tokenizer, recipe.data)
    graphdef, params = nnx.split(build_model(recipe.model, recipe.seed))
    if recipe.start_from is not None:
        params = _parameters_of(recipe.start_from, params, console)
    with Tracker(folder) as tracker:
        for stream, (name, run) in enumerate(recipe.stages.items()):
            stage = _StageInFolder(recipe, name, run, stream, mesh, graphdef, tokenizer, tracker, quiet)
            measured = preferences if run.stage.kind == "direct_memory_preference" else held_out
            own = source if run.source is None else open_source(run.source, folder / "quarantine" / f"{name}.jsonl")
            params, finished = stage.train(params, own, measured or held_out, encoder, console)
            if not finished:
                console.print(f"stopped in {name}; the same command goes on from here")
                return False
    console.print(f"data: {encoder.report.summary()}")
    return True


class _StageInFolder:
    """One stage run of a recipe with its checkpoints."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        run: StageRun,
        stream: int,
        mesh: jax.sharding.Mesh,
        graphdef: Any,
        tokenizer: Tokenizer,
        tracker: Tracker,
        quiet: bool,
    ):
        self.recipe, self.name, self.run, self.stream = recipe, name, run, stream
        self.mesh, self.graphdef, self.tokenizer, self.tracker, self.quiet = mesh, graphdef, tokenizer, tracker, quiet
        self.store = CheckpointStore(recipe.run_folder / "stages" / name, keep_last=recipe.keep_checkpoints)

    def train(
        self,
        params: nnx.State,
        source: EpisodeSource,
        held_out: EpisodeSource,
        encoder: RowEncoder,
        console: Console,
    ) -> tuple[nnx.State, bool]:
        """Resume or begin, train to the end, and return the parameters and whether the end was reached."""
        run = self.run
        optimizer = make_optimizer(
            run.optimizer,
            params,
            total_updates=run.updates,
            trainable=run.stage.trainable,
            unfreeze=getattr(run.stage, "unfreeze", ()),
        )
        first_params = params
        state = make_train_state(params, optimizer, reference_groups=getattr(run.stage, "reference_groups", ()))
        shardings = state_shardings(state, flat_parameters(state.params), self.mesh)
        state = jax.device_put(state, shardings)
        state, data_state = self._restore(state)
        start = int(state.update)
        if start >= run.updates:
            console.print(f"{self.name}: finished before, {start} updates")
            self.store.close()
            return state.params, True
        batches = self._batches(source, encoder, self.recipe.seed + self.stream, first_params, "train")
        if data_state is not None:
            batches.restore(data_state)
        ahead = read_ahead(batches, start, workers=self.recipe.data.workers)
        first = next(ahead)
        placed = batch_shardings(first, self.mesh, run.stage.batch_axis)
        step = make_train_step(
            self.graphdef,
            run.stage,
            optimizer,
            seed=self.recipe.seed,
            stream=self.stream,
            accumulation=run.accumulation,
            state_shardings=shardings,
        )
        began = time.perf_counter()
        result = run_loop(
            self.name,
            step,
            state,
            itertools.chain([first], ahead),
            start=start,
            updates=run.updates,
            config=run.loop,
            place=lambda batch: place_batch(batch, placed),
            report=lambda split, update, metrics: self.tracker.write(self.name, split, update, metrics),
            evaluate=self._held_out_loss(held_out, encoder, placed, first_params) if run.loop.evaluate_every else None,
            save=lambda update, state, metrics: self._save(update, state, metrics, batches.state(update)),
            quiet=self.quiet,
        )
        self.store.close()
        self._report(result, time.perf_counter() - began, console)
        return result.state.params, result.finished

    def _restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any] | None]:
        flat = {path: variable[...] for path, variable in flat_parameters(state.params).items()}
        checkpoint = self.store.restore(
            jax.tree.map(_abstract, flat), jax.tree.map(_abstract, (state.opt_state, state.reference)), self._check
        )
        if checkpoint is None:
            return state, None
        params = with_parameters(state.params, checkpoint.params)
        update = jax.device_put(jax.numpy.int32(checkpoint.update), state.update.sharding)
        opt_state, reference = checkpoint.optimizer
        return TrainState(params, opt_state, update, reference), checkpoint.meta.get("data")

    def _check(self, meta: dict[str, Any]) -> None:
        check_tokenizer(meta, self.tokenizer, self.store.folder)
        mine = self._identity()
        for part, value in mine.items():
            if meta.get(part) != value:
                raise ValueError(
                    f"the checkpoints in {self.store.folder} belong to another {part}: "
                    f"{first_difference(meta.get(part), value, part)}. Use another --folder, or the old config."
                )

    def _identity(self) -> dict[str, Any]:
        run = to_json(self.run)
        for irrelevant in ("loop",):
            run.pop(irrelevant)
        return json.loads(json.dumps({"model": to_json(self.recipe.model), "stage": run, "seed": self.recipe.seed}))

    def _save(self, update: int, state: TrainState, metrics: dict[str, float], data: dict[str, Any]) -> None:
        flat = {path: variable[...] for path, variable in flat_parameters(state.params).items()}
        meta = self._identity() | {"update": update, "tokenizer": self.tokenizer.fingerprint, "data": data}
        self.store.save(update, flat, (state.opt_state, state.reference), meta, metrics.get("loss"))

    def _batches(self, source: EpisodeSource, encoder: RowEncoder, seed: int, params: nnx.State, part: str) -> Any:
        file = self.recipe.run_folder / "references" / f"{self.name}_{part}.npy"
        model = nnx.merge(self.graphdef, params)
        return make_batches(self.run, source, encoder, seed, held_out=part == "held_out", model=model, file=file)

    def _held_out_loss(self, source: EpisodeSource, encoder: RowEncoder, placed: Any, params: nnx.State) -> Any:
        stage = self.run.stage
        batches = self._batches(source, encoder, self.recipe.seed, params, "held_out")
        prepared = [place_batch(batches[number], placed) for number in range(_HELD_OUT_BATCHES)]

        @jax.jit
        def score(params: nnx.State, reference: dict[str, Any], batch: Any) -> Any:
            model = nnx.merge(self.graphdef, params)
            bound = with_reference(
                stage, lambda values: nnx.merge(self.graphdef, with_parameters(params, values)), reference
            )
            loss, metrics = bound.objective(model, batch, None, bound.label_counts(batch))
            return metrics | {"loss": (loss, jax.numpy.float32(1.0))}

        def evaluate(state: TrainState) -> dict[str, float]:
            window = MetricWindow()
            for batch in prepared:
                window.add(score(state.params, state.reference, batch))
            return window.read()

        return evaluate

    def _report(self, result: LoopResult, seconds: float, console: Console) -> None:
        console.print(
            f"{self.name}: {int(result.state.update)} updates in {seconds:.0f} s "
            f"({result.compile_seconds:.0f} s to compile, {1000 * result.seconds:.0f} ms per update, "
            f"at most {100 * result.idle_share:.1f} % of it waiting for data)"
        )


def _parameters_of(start_from: str, params: nnx.State, console: Console) -> nnx.State:
    """Take over the parameters of another run that fit, and say which ones did not."""
    found = flat_parameters(nnx.split(load(start_from).model)[1])
    mine = flat_parameters(params)
    fitting = {
        path: found[path][...]
        for path, variable in mine.items()
        if path in found and found[path].shape == variable.shape
    }
    console.print(f"begins with {len(fitting)} of {len(mine)} parameter arrays of {start_from}")
    fresh = sorted(set(mine) - set(fitting))
    if fresh:
        console.print(f"these start fresh: {', '.join(fresh)}")
    return with_parameters(params, fitting)


def _open_tokenizer(recipe: Recipe, folder: Path, source: EpisodeSource) -> Tokenizer:
    if any((folder / name).is_file() for name in (MODEL_FILE, JSON_FILE)):
        return load_tokenizer(folder)
    ready = recipe.tokenizer.path if recipe.start_from is None else run_and_stage(recipe.start_from)[0]
    if ready is None:
        # Prepared data bring the tokenizer they were made with.
        ready = next((leaf.folder for leaf in leaves(source) if isinstance(leaf, PreparedEpisodes)), None)
    if ready is not None:
        tokenizer = load_tokenizer(ready)
        tokenizer.save(folder)
        return tokenizer
    texts = (source.text(number) for number in range(recipe.tokenizer.texts))
    return train_tokenizer(texts, recipe.tokenizer, folder)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
