"""A run from its recipe to its folder: tokenizer, model, stages in order, evaluation, a sample conversation.

recipe.json  tokenizer.model  stages/<name>/  metrics.jsonl  tensorboard/  evaluation/  samples/
"""

import importlib.metadata
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx
from rich.console import Console

from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.data.config import DataConfig
from rxt_jax.data.loader import EpisodeBatches, InteractionBatches, TextBatches, read_ahead
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import EpisodeSource, open_source
from rxt_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import train_tokenizer
from rxt_jax.model import ModelConfig, ReactiveTransformer
from rxt_jax.recipe import Recipe, StageRun, from_json, to_json
from rxt_jax.sharding import batch_shardings, make_mesh, state_shardings
from rxt_jax.stages import MemoryAware
from rxt_jax.train.groups import flat_parameters, with_parameters
from rxt_jax.train.loop import LoopResult, run_loop
from rxt_jax.train.metrics import MetricWindow
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.state import TrainState, make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.train.tracker import Tracker

__all__ = ["LoadedRun", "build_model", "load", "make_batches", "run_and_stage", "run_recipe", "write_run"]

_HELD_OUT_BATCHES = 4
_RECIPE_FILE = "recipe.json"


class LoadedRun(NamedTuple):
    """A trained model with everything needed to use it."""

    model: ReactiveTransformer
    tokenizer: Tokenizer
    recipe: Recipe


def build_model(config: ModelConfig, seed: int) -> ReactiveTransformer:
    """Make a model with fresh parameters, in one compiled program."""

    def make() -> nnx.State:
        return nnx.split(ReactiveTransformer(config, rngs=nnx.Rngs(seed)))[1]

    graphdef = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(config, rngs=nnx.Rngs(seed))))[0]
    return nnx.merge(graphdef, jax.jit(make)())


def make_batches(run: StageRun, source: EpisodeSource, encoder: RowEncoder, seed: int) -> Any:
    """Choose the rows that a stage trains on."""
    kinds = {"joint_pretraining": TextBatches, "interaction_sft": InteractionBatches}
    batches = kinds.get(run.stage.kind, EpisodeBatches)
    if run.max_interactions is not None:
        config = replace(encoder.config, max_interactions=run.max_interactions)
        encoder = RowEncoder(encoder.tokenizer, config)
    return batches(source, encoder, batch_size=run.batch_size, seed=seed)


def run_recipe(recipe: Recipe, *, quiet: bool = False, console: Console | None = None) -> bool:
    """Train every stage that is not finished, then evaluate; return whether all stages are finished.

    A run that was interrupted goes on where it stopped. A folder that belongs to another recipe is an error.
    """
    console = console or Console(quiet=quiet)
    folder = recipe.run_folder
    mesh = make_mesh(recipe.mesh)
    _claim_folder(recipe, folder)
    source = open_source(recipe.data.source)
    held_out = open_source(recipe.data.evaluation_source)
    tokenizer = _open_tokenizer(recipe, folder, source)
    recipe = replace(recipe, model=replace(recipe.model, vocab_size=tokenizer.vocab_size))
    _write_recipe(recipe, folder)
    encoder = RowEncoder(tokenizer, recipe.data)
    graphdef, params = nnx.split(build_model(recipe.model, recipe.seed))
    if recipe.start_from is not None:
        params = _parameters_of(recipe.start_from, params, console)
    with Tracker(folder) as tracker:
        for stream, (name, run) in enumerate(recipe.stages.items()):
            stage = _StageInFolder(recipe, name, run, stream, mesh, graphdef, tracker, quiet)
            params, finished = stage.train(params, source, held_out, encoder, console)
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
        tracker: Tracker,
        quiet: bool,
    ):
        self.recipe, self.name, self.run, self.stream = recipe, name, run, stream
        self.mesh, self.graphdef, self.tracker, self.quiet = mesh, graphdef, tracker, quiet
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
        state = make_train_state(params, optimizer)
        shardings = state_shardings(state, flat_parameters(state.params), self.mesh)
        state = jax.device_put(state, shardings)
        state = self._restore(state)
        start = int(state.update)
        if start >= run.updates:
            console.print(f"{self.name}: finished before, {start} updates")
            self.store.close()
            return state.params, True
        batches = make_batches(run, source, encoder, self.recipe.seed + self.stream)
        example = jax.tree.map(jax.numpy.asarray, batches[start])
        placed = batch_shardings(example, self.mesh, run.stage.batch_axis)
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
            read_ahead(batches, start),
            start=start,
            updates=run.updates,
            config=run.loop,
            place=lambda batch: jax.device_put(batch, placed),
            report=lambda split, update, metrics: self.tracker.write(self.name, split, update, metrics),
            evaluate=self._held_out_loss(held_out, encoder, placed) if run.loop.evaluate_every else None,
            save=self._save,
            quiet=self.quiet,
        )
        self.store.close()
        self._report(result, time.perf_counter() - began, console)
        return result.state.params, result.finished

    def _restore(self, state: TrainState) -> TrainState:
        flat = {path: variable[...] for path, variable in flat_parameters(state.params).items()}
        checkpoint = self.store.restore(
            jax.tree.map(_abstract, flat), jax.tree.map(_abstract, state.opt_state), self._check
        )
        if checkpoint is None:
            return state
        params = with_parameters(state.params, checkpoint.params)
        update = jax.device_put(jax.numpy.int32(checkpoint.update), state.update.sharding)
        return TrainState(params, checkpoint.optimizer, update)

    def _check(self, meta: dict[str, Any]) -> None:
        mine = self._identity()
        for part, value in mine.items():
            if meta.get(part) != value:
                raise ValueError(
                    f"the checkpoints in {self.store.folder} belong to another {part}: "
                    f"{_first_difference(meta.get(part), value, part)}. Use another --folder, or the old config."
                )

    def _identity(self) -> dict[str, Any]:
        run = to_json(self.run)
        for irrelevant in ("loop",):
            run.pop(irrelevant)
        return json.loads(json.dumps({"model": to_json(self.recipe.model), "stage": run, "seed": self.recipe.seed}))

    def _save(self, update: int, state: TrainState, metrics: dict[str, float]) -> None:
        flat = {path: variable[...] for path, variable in flat_parameters(state.params).items()}
        self.store.save(update, flat, state.opt_state, self._identity() | {"update": update}, metrics.get("loss"))

    def _held_out_loss(self, source: EpisodeSource, encoder: RowEncoder, placed: Any) -> Any:
        stage = self.run.stage
        batches = make_batches(self.run, source, encoder, self.recipe.seed)
        prepared = [jax.device_put(batches[number], placed) for number in range(_HELD_OUT_BATCHES)]

        @jax.jit
        def score(params: nnx.State, batch: Any) -> Any:
            loss, metrics = stage.objective(nnx.merge(self.graphdef, params), batch, None, stage.label_counts(batch))
            return metrics | {"loss": (loss, jax.numpy.float32(1.0))}

        def evaluate(state: TrainState) -> dict[str, float]:
            window = MetricWindow()
            for batch in prepared:
                window.add(score(state.params, batch))
            return window.read()

        return evaluate

    def _report(self, result: LoopResult, seconds: float, console: Console) -> None:
        console.print(
            f"{self.name}: {int(result.state.update)} updates in {seconds:.0f} s "
            f"({result.compile_seconds:.0f} s to compile, {1000 * result.seconds:.0f} ms per update)"
        )


def load(folder: str | Path) -> LoadedRun:
    """Load a run's model with its tokenizer and recipe.

    `folder` is the run's: then the last stage that has a checkpoint counts; or one of its `stages/<name>`.
    """
    folder, only = run_and_stage(folder)
    if not (folder / _RECIPE_FILE).is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no {_RECIPE_FILE}")
    recipe = from_json(json.loads((folder / _RECIPE_FILE).read_text(encoding="utf-8"))["recipe"])
    tokenizer = load_tokenizer(folder)
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(recipe.model, rngs=nnx.Rngs(0))))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        path: jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=device)
        for path, variable in flat_parameters(abstract).items()
    }
    for name in reversed(recipe.stages) if only is None else (only,):
        path = folder / "stages" / name
        if not path.is_dir():
            continue
        store = CheckpointStore(path)
        checkpoint = store.restore(shapes, None)
        store.close()
        if checkpoint is not None:
            params = with_parameters(abstract, checkpoint.params)
            return LoadedRun(nnx.merge(graphdef, params), tokenizer, recipe)
    place = folder if only is None else folder / "stages" / only
    raise FileNotFoundError(f"{place} has no readable checkpoint; train it first: rxt train CONFIG")


def write_run(folder: str | Path, model: ReactiveTransformer, tokenizer: Tokenizer, *, stage: str = "imported") -> None:
    """Write a model that was not trained here as a run of one finished stage; `start_from` trains it on."""
    folder = Path(folder)
    if (folder / _RECIPE_FILE).is_file():
        raise FileExistsError(f"{folder} holds a run already; name another folder")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, more than the model's {model.config.vocab_size}"
        )
    done = StageRun(stage=MemoryAware(), updates=1, batch_size=1)
    data = DataConfig(max_length=model.config.max_length, text_length=model.config.max_length)
    recipe = Recipe(name=folder.name, folder=str(folder), model=model.config, data=data, stages={stage: done})
    tokenizer.save(folder)
    _write_recipe(recipe, folder)
    store = CheckpointStore(folder / "stages" / stage)
    flat = {path: variable[...] for path, variable in flat_parameters(nnx.split(model)[1]).items()}
    store.save(done.updates, flat, (), {"update": done.updates})
    store.close()


def run_and_stage(path: str | Path) -> tuple[Path, str | None]:
    """Tell a run's folder from that of one of its stages."""
    path = Path(path)
    return (path.parent.parent, path.name) if path.parent.name == "stages" else (path, None)


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


def _claim_folder(recipe: Recipe, folder: Path) -> None:
    """Refuse a folder that holds the run of another model or tokenizer."""
    file = folder / _RECIPE_FILE
    if not file.is_file():
        return
    old = json.loads(file.read_text(encoding="utf-8"))["recipe"]
    new = json.loads(json.dumps(to_json(recipe)))
    for part in ("model", "tokenizer", "seed", "start_from"):
        before, now = old.get(part), new[part]
        if part == "model":
            before, now = ({**each, "vocab_size": None} for each in (before, now))
        if before != now:
            raise ValueError(
                f"{folder} holds a run with another {part}: {_first_difference(before, now, part)}. "
                f"Use another --folder, or the old config."
            )


def _open_tokenizer(recipe: Recipe, folder: Path, source: EpisodeSource) -> Tokenizer:
    if any((folder / name).is_file() for name in (MODEL_FILE, JSON_FILE)):
        return load_tokenizer(folder)
    ready = recipe.tokenizer.path if recipe.start_from is None else run_and_stage(recipe.start_from)[0]
    if ready is not None:
        tokenizer = load_tokenizer(ready)
        tokenizer.save(folder)
        return tokenizer
    texts = (source.text(number) for number in range(recipe.tokenizer.texts))
    return train_tokenizer(texts, recipe.tokenizer, folder)


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "rxt_jax")
    versions = {name: importlib.metadata.version(name) for name in packages}
    content = {"recipe": to_json(recipe), "versions": versions, "git": _git_state()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _RECIPE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _git_state() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _first_difference(old: Any, new: Any, place: str) -> str:
    """Name the first field in which two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{place}.{key}")
    return f"{place} was {old!r} and is {new!r}"
