"""A run from its recipe to its folder: tokenizer, model, stages in order, evaluation, a sample conversation.

recipe.json  tokenizer.model  stages/<name>/  metrics.jsonl  tensorboard/  evaluation/  samples/
"""

import functools
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
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import Batches, Shard
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import train_tokenizer
from rxt_jax.model import AnyModelConfig
from rxt_jax.model.fresh_parameters import abstract_model, fresh_parameters
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.recipe import Recipe, StageRun, from_json, to_json
from rxt_jax.report import note_data, note_stage
from rxt_jax.run_folder import (
    check_tokenizer,
    claim_folder,
    first_difference,
    read_parameters,
    run_and_stage,
    write_recipe,
)
from rxt_jax.sharding import (
    batch_shardings,
    describe_indivisible,
    find_indivisible,
    make_mesh,
    parameter_shardings,
    place_batch,
)
from rxt_jax.stages.stage import Reading
from rxt_jax.train.acting import make_acting
from rxt_jax.train.loop import LoopResult, run_loop
from rxt_jax.train.metrics import MetricSums
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.samples import make_sampler
from rxt_jax.train.state import TrainState, abstract_state, begin_training
from rxt_jax.train.step import make_train_step, rebuilder
from rxt_jax.train.tracker import Tracker

__all__ = ["make_batches", "run_recipe"]

_HELD_OUT_BATCHES = 4


def make_batches(
    run: StageRun,
    source: EpisodeSource,
    encoder: RowEncoder,
    seed: int,
    *,
    held_out: bool = False,
    model: Callable[[], Any] | None = None,
    file: Path | None = None,
) -> Batches:
    """Make the batches that a stage reads; those of `held_out` data are never sampled. `model` makes the one that the
    stage begins with, `file` is where it may keep what it computes from the data."""
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
    graphdef, params = _describe_parameters(recipe, mesh, console)
    beginning = _Beginning(lambda: _first_parameters(recipe, params, console))
    with Tracker(folder) as tracker:
        for stream, (name, run) in enumerate(recipe.stages.items()):
            stage = _StageInFolder(recipe, name, run, stream, mesh, graphdef, params, tokenizer, tracker, quiet)
            own = _with_config(encoder, reads[name])
            beginning, finished = stage.train(beginning, training[name], held_out[name], own, console)
            if not finished:
                console.print(f"stopped in {name}; the same command goes on from here")
                return False
    console.print(f"data: {encoder.report.summary()}")
    note_data(folder, sources.account() | {"rows": encoder.report.as_json()})
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

    def account(self) -> dict[str, Any]:
        """Say what became of the records of every source that was read from files."""
        reports = enumerate(source.report for _, source in self._opened)
        return {f"source {number}": report.as_json() for number, report in reports if report is not None}


def _with_config(encoder: RowEncoder, config: DataConfig) -> RowEncoder:
    """Encode rows of other settings; what is read is counted in the same report."""
    return encoder if config == encoder.config else RowEncoder(encoder.tokenizer, config, encoder.report)


class _Beginning:
    """The parameters that a stage begins with. They are made when they are asked for and can be made again, so that
    nobody has to keep them beside the state of the stage."""

    def __init__(self, make: Callable[[], nnx.State], made: nnx.State | None = None):
        self._make, self._made = make, made

    def read(self) -> nnx.State:
        """Return them; they stay until they are given up."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def give_up(self) -> None:
        """Let go of them."""
        self._made = None


class _StageInFolder:
    """One stage run of a recipe with its checkpoints. `params` are the shapes of the model's, and where they live."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        run: StageRun,
        stream: int,
        mesh: jax.sharding.Mesh,
        graphdef: Any,
        params: nnx.State,
        tokenizer: Tokenizer,
        tracker: Tracker,
        quiet: bool,
    ):
        self.recipe, self.name, self.run, self.stream = recipe, name, run, stream
        self.mesh, self.graphdef, self.params = mesh, graphdef, params
        self.tokenizer, self.tracker, self.quiet = tokenizer, tracker, quiet
        self.store = CheckpointStore(recipe.run_folder / "stages" / name, keep_last=recipe.keep_checkpoints)

    def train(
        self,
        beginning: _Beginning,
        source: EpisodeSource,
        held_out: EpisodeSource,
        encoder: RowEncoder,
        console: Console,
    ) -> tuple[_Beginning, bool]:
        """Resume or begin, train to the end, and return what the next stage begins with and whether the end was
        reached."""
        run = self.run
        newest = self.store.newest(self._check)
        if newest is not None and newest >= run.updates:
            beginning.give_up()
            done = self.store.restore(_by_path(self.params), None, self._check)
            if done is not None and done.update >= run.updates:
                console.print(f"{self.name}: finished before, {done.update} updates")
                self.store.close()
                return self._after(with_parameters(self.params, done.params)), True
        optimizer = make_optimizer(
            run.optimizer,
            self.params,
            total_updates=run.updates,
            trainable=run.stage.trainable,
            unfreeze=run.stage.unfreeze,
        )
        # What a stage computes with the model that it begins with, it computes before there is anything else in memory.
        batches = self._batches(source, encoder, self.recipe.seed + self.stream, beginning, "train")
        measured = None
        if run.loop.evaluate_every:
            measured = self._batches(held_out, encoder, self.recipe.seed, beginning, "held_out")
        act, led = self._acting(), self._acting(held_out=True)
        sample = self._sampler(held_out, encoder, beginning, led) if run.loop.sample_every else None
        # Only what acts carries something of a batch's shape.
        example = None
        if act is not None:
            example = self._batches(source, encoder, self.recipe.seed + self.stream, beginning, "train")[0]
        known = {"graphdef": self.graphdef, "tokenizer": self.tokenizer, "batch": example}
        shapes = abstract_state(
            self.params, optimizer, run.stage, self.mesh, self.recipe.mesh.replicate_indivisible, **known
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
        begin = functools.partial(begin_training, optimizer=optimizer, stage=run.stage, shardings=shardings, **known)
        state, data_state = self._begin(beginning, shapes, shardings, begin, resume=newest is not None)
        start = int(state.update)
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
        evaluate = None if measured is None else self._held_out_loss(measured, led)
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
            sample=sample,
            watched=run.stage.watched,
            quiet=self.quiet,
        )
        self.store.close()
        self._report(result, time.perf_counter() - began, start, console)
        return self._after(result.state.params), result.finished

    def _after(self, params: nnx.State) -> _Beginning:
        """Hand parameters on to the next stage, which may read them again from this one's last checkpoint."""
        folder, wanted = self.recipe.run_folder / "stages" / self.name, _by_path(self.params)
        return _Beginning(lambda: with_parameters(self.params, read_parameters(folder, wanted)), params)

    def _begin(
        self,
        beginning: _Beginning,
        shapes: TrainState,
        shardings: TrainState,
        begin: Callable[[nnx.State], TrainState],
        *,
        resume: bool,
    ) -> tuple[TrainState, dict[str, Any] | None]:
        """Read the state and the place in the data from the newest good checkpoint, or begin."""
        checkpoint = None
        if resume:
            beginning.give_up()
            checkpoint = self.store.restore(_by_path(shapes.params), _beside_parameters(shapes), self._check)
        if checkpoint is None:
            params = beginning.read()
            beginning.give_up()
            return begin(params), None
        params = with_parameters(shapes.params, checkpoint.params)
        update = jax.device_put(jax.numpy.int32(checkpoint.update), shardings.update)
        beside = checkpoint.optimizer
        return TrainState(params, beside["optimizer"], update, beside["stage"]), checkpoint.meta.get("data")

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
        meta = self._identity() | {"update": update, "tokenizer": self.tokenizer.fingerprint, "data": data}
        self.store.save(update, _by_path(state.params), _beside_parameters(state), meta, metrics.get("loss"))

    def _batches(
        self, source: EpisodeSource, encoder: RowEncoder, seed: int, beginning: _Beginning, part: str
    ) -> Batches:
        return make_batches(
            self.run,
            source,
            encoder,
            seed,
            held_out=part == "held_out",
            model=lambda: nnx.merge(self.graphdef, beginning.read()),
            file=self.recipe.run_folder / "references" / f"{self.name}_{part}.npy",
        )

    def _acting(self, *, held_out: bool = False) -> Any:
        options = {"seed": self.recipe.seed, "stream": self.stream, "held_out": held_out}
        return make_acting(self.graphdef, self.run.stage, self.tokenizer, **options)

    def _sampler(self, held_out: EpisodeSource, encoder: RowEncoder, beginning: _Beginning, act: Any) -> Any:
        if act is None:
            raise ValueError(
                f"stages.{self.name}.loop.sample_every = {self.run.loop.sample_every} wants conversations that the "
                f"stage leads, but {self.run.stage.kind} leads none. Set it to 0."
            )
        batch = self._place(self._batches(held_out, encoder, self.recipe.seed, beginning, "held_out")[0])
        folder = self.recipe.run_folder / "samples" / self.name
        return make_sampler(self.run.stage, act, batch, self.tokenizer, folder)

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
            sums = MetricSums()
            for number, batch in enumerate(prepared):
                acted = batch if act is None else act(state, batch, number)
                sums.add(score(state.params, state.carry, acted))
            return sums.read()

        return evaluate

    def _report(self, result: LoopResult, seconds: float, start: int, console: Console) -> None:
        sitting = {"from": start, "to": int(result.state.update), "seconds": seconds, "idle_share": result.idle_share}
        spent = {"compile_seconds": result.compile_seconds, "seconds_per_update": result.seconds}
        device = f"{self.mesh.size} × {self.mesh.devices.flat[0].device_kind}"
        note_stage(self.recipe.run_folder, self.name, sitting | spent | {"device": device})
        console.print(
            f"{self.name}: {int(result.state.update)} updates in {seconds:.0f} s "
            f"({result.compile_seconds:.0f} s to compile, {1000 * result.seconds:.0f} ms per update, "
            f"at most {100 * result.idle_share:.1f} % of it waiting for data)"
        )


def _describe_parameters(recipe: Recipe, mesh: jax.sharding.Mesh, console: Console) -> tuple[nnx.GraphDef, nnx.State]:
    """Describe the model: structure, and shapes and shardings of its parameters. List what the mesh cannot split."""
    graphdef, abstract = abstract_model(recipe.model)
    variables = flat_parameters(abstract)
    shardings = parameter_shardings(variables, mesh, recipe.mesh.replicate_indivisible)
    whole = find_indivisible(variables, mesh)
    if whole:
        console.print(f"whole on every device, as mesh.replicate_indivisible says:\n{describe_indivisible(whole)}")
    placed = {
        path: jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=shardings[path])
        for path, variable in variables.items()
    }
    return graphdef, with_parameters(abstract, placed)


def _first_parameters(recipe: Recipe, params: nnx.State, console: Console) -> nnx.State:
    """Make the parameters that a run begins with, each where it is to live: those of `start_from` that fit, the others
    fresh; say which ones did not fit."""
    wanted, found = _by_path(params), {}
    if recipe.start_from is not None:
        found = read_parameters(recipe.start_from, wanted)
        console.print(f"begins with {len(found)} of {len(wanted)} parameter arrays of {recipe.start_from}")
    fresh = {path: leaf.sharding for path, leaf in wanted.items() if path not in found}
    if fresh and found:
        console.print(f"these start fresh: {', '.join(sorted(fresh))}")
    made = fresh_parameters(recipe.model, recipe.seed, fresh) if fresh else {}
    return with_parameters(params, found | made)


def _by_path(params: nnx.State) -> dict[str, Any]:
    return {path: variable.get_value() for path, variable in flat_parameters(params).items()}


def _beside_parameters(state: TrainState) -> dict[str, Any]:
    """Pick what a checkpoint keeps beside the parameters. Older ones number its leaves in this order."""
    return {"optimizer": state.opt_state, "stage": state.carry}


def _open_tokenizer(recipe: Recipe, folder: Path, source: EpisodeSource, *others: EpisodeSource) -> Tokenizer:
    if any((folder / name).is_file() for name in (MODEL_FILE, JSON_FILE)):
        return load_tokenizer(folder)
    ready = recipe.tokenizer.path if recipe.start_from is None else run_and_stage(recipe.start_from)[0]
    if ready is None:
        # Prepared data bring the tokenizer they were made with.
        folders = (each.tokenizer_folder for each in (source, *others))
        ready = next((folder for folder in folders if folder is not None), None)
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
