"""A run from its recipe to its folder: tokenizer, model, stages in order, evaluation, a sample conversation.

recipe.json  tokenizer.model  stages/<name>/  metrics.jsonl  tensorboard/  evaluation/  samples/
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.loader import Batches, Shard
from rxt_jax.data.prepared import PreparedEpisodes
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import EpisodeSource, leaves, open_source
from rxt_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import train_tokenizer
from rxt_jax.model import AnyModelConfig, make_model
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.recipe import Recipe, StageRun, from_json, to_json
from rxt_jax.run_folder import check_tokenizer, claim_folder, first_difference, load, run_and_stage, write_recipe
from rxt_jax.sharding import batch_shardings, make_mesh, place_batch, state_shardings
from rxt_jax.stages.stage import Reading
from rxt_jax.train.acting import make_acting
from rxt_jax.train.loop import LoopResult, run_loop
from rxt_jax.train.metrics import MetricWindow
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.state import TrainState, make_train_state
from rxt_jax.train.step import make_train_step, rebuilder
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
) -> Batches:
    """Make the batches that a stage reads; those of `held_out` data are never sampled. `model` is the one that the
    stage begins with, `file` where it may keep what it computes from the data."""
    if held_out and encoder.config.subword_sampling:
        encoder = _with_config(encoder, replace(encoder.config, subword_sampling=0.0))
    shard = Shard(jax.process_index(), jax.process_count())
    return run.stage.batches(Reading(source, encoder, run.batch_size, seed, shard, model, file))


def run_recipe(recipe: Recipe, *, quiet: bool = False, console: Console | None = None) -> bool:
    """Train every stage that is not finished, then evaluate; return whether all stages are finished.

    A run that was interrupted goes on where it stopped. A folder that belongs to another recipe is an error.
    """
    console = console or Console(quiet=quiet)
    folder = recipe.run_folder
    mesh = make_mesh(recipe.mesh)
    claim_folder(recipe, folder)
    sources = _Sources(folder / "quarantine", console)
    first = sources.open(recipe.data.source, "train", "training")
    sources.open(recipe.data.evaluation_source, "evaluation", "held-out")
    reads = {name: recipe.data_of(run) for name, run in recipe.stages.items()}
    training = {name: sources.open(data.source, name, f"{name} training") for name, data in reads.items()}
    held_out = {
        name: sources.open(run.stage.held_out(reads[name]), f"{name}_held_out", f"{name} held-out")
        for name, run in recipe.stages.items()
    }
    tokenizer = _open_tokenizer(recipe, folder, first, *training.values())
    recipe = replace(recipe, model=replace(recipe.model, vocab_size=tokenizer.vocab_size))
    write_recipe(recipe, folder)
    encoder = RowEncoder(tokenizer, recipe.data)
    graphdef, params = nnx.split(build_model(recipe.model, recipe.seed))
    if recipe.start_from is not None:
        params = _parameters_of(recipe.start_from, params, console)
    with Tracker(folder) as tracker:
        for stream, (name, run) in enumerate(recipe.stages.items()):
            stage = _StageInFolder(recipe, name, run, stream, mesh, graphdef, tokenizer, tracker, quiet)
            own = _with_config(encoder, reads[name])
            params, finished = stage.train(params, training[name], held_out[name], own, console)
            if not finished:
                console.print(f"stopped in {name}; the same command goes on from here")
                return False
    console.print(f"data: {encoder.report.summary()}")
    return True


class _Sources:
    """The sources of a recipe, each opened once and all before anything trains: faulty files are found at the start."""

    def __init__(self, quarantine: Path, console: Console):
        self._quarantine, self._console = quarantine, console
        self._opened: list[tuple[DataSource, EpisodeSource]] = []

    def open(self, data: DataSource, name: str, title: str) -> EpisodeSource:
        """Open a source, or return it where it is open; `name` is that of its quarantine file."""
        found = next((source for known, source in self._opened if known == data), None)
        if found is None:
            found = open_source(data, self._quarantine / f"{name}.jsonl")
            self._opened.append((data, found))
            if found.report is not None:
                self._console.print(f"{title} data: {found.report.summary()}")
        return found


def _with_config(encoder: RowEncoder, config: DataConfig) -> RowEncoder:
    """Encode rows of other settings; what is read is counted in the same report."""
    return encoder if config == encoder.config else RowEncoder(encoder.tokenizer, config, encoder.report)


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
            unfreeze=run.stage.unfreeze,
        )
        first_params = params
        act = make_acting(self.graphdef, run.stage, self.tokenizer, seed=self.recipe.seed, stream=self.stream)
        # Only what acts carries something of a batch's shape.
        example = None
        if act is not None:
            example = self._batches(source, encoder, self.recipe.seed + self.stream, first_params, "train")[0]
        state = make_train_state(
            params,
            optimizer,
            run.stage,
            graphdef=self.graphdef,
            tokenizer=self.tokenizer,
            batch=example,
        )
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
        step = make_train_step(
            self.graphdef,
            run.stage,
            optimizer,
            seed=self.recipe.seed,
            stream=self.stream,
            accumulation=run.accumulation,
            state_shardings=shardings,
        )
        evaluate = None
        if run.loop.evaluate_every:
            measured = self._batches(held_out, encoder, self.recipe.seed, first_params, "held_out")
            acting = make_acting(
                self.graphdef, run.stage, self.tokenizer, seed=self.recipe.seed, stream=self.stream, held_out=True
            )
            evaluate = self._held_out_loss(measured, acting)
        began = time.perf_counter()
        result = run_loop(
            self.name,
            step,
            state,
            read_ahead(batches, start, workers=encoder.config.workers),
            start=start,
            updates=run.updates,
            config=run.loop,
            place=self._place,
            act=act,
            report=lambda split, update, metrics: self.tracker.write(self.name, split, update, metrics),
            evaluate=evaluate,
            save=lambda update, state, metrics: self._save(update, state, metrics, batches.state(update)),
            watched=run.stage.watched,
            quiet=self.quiet,
        )
        self.store.close()
        self._report(result, time.perf_counter() - began, console)
        return result.state.params, result.finished

    def _restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any] | None]:
        flat = {path: variable[...] for path, variable in flat_parameters(state.params).items()}
        checkpoint = self.store.restore(
            jax.tree.map(_abstract, flat), jax.tree.map(_abstract, (state.opt_state, state.carry)), self._check
        )
        if checkpoint is None:
            return state, None
        params = with_parameters(state.params, checkpoint.params)
        update = jax.device_put(jax.numpy.int32(checkpoint.update), state.update.sharding)
        opt_state, carry = checkpoint.optimizer
        return TrainState(params, opt_state, update, carry), checkpoint.meta.get("data")

    def _check(self, meta: dict[str, Any]) -> None:
        check_tokenizer(meta, self.tokenizer, self.store.folder)
        mine = self._identity()
        # Read and written again: fields that got another name since, or came with a default, make no difference.
        theirs = _identity(*(from_json(meta.get(part), part) for part in mine))
        for part, value in mine.items():
            if theirs[part] != value:
                raise ValueError(
                    f"the checkpoints in {self.store.folder} belong to another {part}: "
                    f"{first_difference(theirs[part], value, part)}. Use another --folder, or the old config."
                )

    def _identity(self) -> dict[str, Any]:
        return _identity(self.recipe.model, self.run, self.recipe.seed)

    def _save(self, update: int, state: TrainState, metrics: dict[str, float], data: dict[str, Any]) -> None:
        flat = {path: variable[...] for path, variable in flat_parameters(state.params).items()}
        meta = self._identity() | {"update": update, "tokenizer": self.tokenizer.fingerprint, "data": data}
        self.store.save(update, flat, (state.opt_state, state.carry), meta, metrics.get("loss"))

    def _batches(self, source: EpisodeSource, encoder: RowEncoder, seed: int, params: nnx.State, part: str) -> Batches:
        file = self.recipe.run_folder / "references" / f"{self.name}_{part}.npy"
        model = nnx.merge(self.graphdef, params)
        return make_batches(self.run, source, encoder, seed, held_out=part == "held_out", model=model, file=file)

    def _place(self, batch: Any) -> Any:
        return place_batch(batch, batch_shardings(batch, self.mesh, self.run.stage.batch_axis))

    def _held_out_loss(self, batches: Batches, act: Any) -> Callable[[TrainState], dict[str, float]]:
        stage = self.run.stage
        prepared = [self._place(batches[number]) for number in range(_HELD_OUT_BATCHES)]

        @jax.jit
        def score(params: nnx.State, carry: Any, batch: Any) -> Any:
            rebuild = rebuilder(self.graphdef, params)
            arguments = stage.objective_arguments(carry, rebuild)
            loss, metrics = stage.objective(rebuild({}), batch, None, stage.label_counts(batch), **arguments)
            return metrics | stage.batch_metrics(batch) | {"loss": (loss, jax.numpy.float32(1.0))}

        def evaluate(state: TrainState) -> dict[str, float]:
            window = MetricWindow()
            for number, batch in enumerate(prepared):
                acted = batch if act is None else act(state, batch, number)
                window.add(score(state.params, state.carry, acted))
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


def _open_tokenizer(recipe: Recipe, folder: Path, source: EpisodeSource, *others: EpisodeSource) -> Tokenizer:
    if any((folder / name).is_file() for name in (MODEL_FILE, JSON_FILE)):
        return load_tokenizer(folder)
    ready = recipe.tokenizer.path if recipe.start_from is None else run_and_stage(recipe.start_from)[0]
    if ready is None:
        # Prepared data bring the tokenizer they were made with.
        every = (leaf for each in (source, *others) for leaf in leaves(each))
        ready = next((leaf.folder for leaf in every if isinstance(leaf, PreparedEpisodes)), None)
    if ready is not None:
        tokenizer = load_tokenizer(ready)
        tokenizer.save(folder)
        return tokenizer
    texts = (source.text(number) for number in range(recipe.tokenizer.texts))
    return train_tokenizer(texts, recipe.tokenizer, folder)


def _identity(model: AnyModelConfig | None, run: StageRun | None, seed: int | None) -> dict[str, Any]:
    """Say, in JSON, what a checkpoint belongs to; its place in the data has an account of its own (`Batches.state`)."""
    stage = to_json(run)
    if stage is not None:
        stage = {name: value for name, value in stage.items() if name not in ("loop", "data")}
    return json.loads(json.dumps({"model": to_json(model), "stage": stage, "seed": seed}))


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
