"""One stage of a run in the run's folder: begin or go on, train to the end, keep checkpoints, say what it took."""

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from rxt_jax.checkpoint import CheckpointStore
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import Batches, Shard
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model import AnyModelConfig
from rxt_jax.model.operation_count import device_peak
from rxt_jax.nn.parameters import with_parameters
from rxt_jax.processes import CompiledTogether, is_writer
from rxt_jax.recipe import Recipe, StageRun, from_json, to_json
from rxt_jax.report import note_stage
from rxt_jax.run_data import make_batches
from rxt_jax.run_folder import check_tokenizer, first_difference, read_parameters
from rxt_jax.run_parameters import Beginning, by_path
from rxt_jax.sharding import place_batch, process_rows
from rxt_jax.train.acting import make_acting
from rxt_jax.train.loop import LoopResult, run_loop
from rxt_jax.train.metrics import MetricSums
from rxt_jax.train.optimizer import make_optimizer
from rxt_jax.train.profiling import Profile, Profiler
from rxt_jax.train.samples import make_sampler
from rxt_jax.train.state import TrainState, abstract_state, begin_training
from rxt_jax.train.step import make_train_step, rebuilder
from rxt_jax.train.tracker import Tracker

__all__ = ["StageInFolder"]

_HELD_OUT_BATCHES = 4


class StageInFolder:
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
        profile: Profile | None = None,
    ):
        self.recipe, self.name, self.run, self.stream = recipe, name, run, stream
        self.mesh, self.graphdef, self.params = mesh, graphdef, params
        self.tokenizer, self.tracker, self.quiet = tokenizer, tracker, quiet
        # The number that this stage's update 0 has in the whole run.
        self.first = sum(each.updates for each in list(recipe.stages.values())[:stream])
        self.profiler = None
        if profile is not None and is_writer():
            self.profiler = Profiler(profile, recipe.run_folder / "tensorboard", self.first)
        stage_folder = recipe.run_folder / "stages" / name
        self.store = CheckpointStore(stage_folder, keep_last=recipe.keep_checkpoints, together=True)

    def train(
        self,
        beginning: Beginning,
        source: EpisodeSource,
        held_out: EpisodeSource,
        encoder: RowEncoder,
        console: Console,
    ) -> tuple[Beginning, bool]:
        """Resume or begin, train to the end, and return what the next stage begins with and whether the end was
        reached."""
        run = self.run
        newest = self.store.newest(self._check)
        if newest is not None and newest >= run.updates:
            beginning.give_up()
            done = self.store.restore(by_path(self.params), None, self._check)
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
        # Only what acts carries something of a batch's shape: of the whole batch, whoever has which rows of it.
        example = None
        if act is not None:
            seed = self.recipe.seed + self.stream
            example = self._batches(source, encoder, seed, beginning, "train", whole=True)[0]
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
            peak_seconds=self._peak_seconds,
            profiler=self.profiler,
            first=self.first,
            quiet=self.quiet,
        )
        self.store.close()
        self._report(result, time.perf_counter() - began, start, console)
        return self._after(result.state.params), result.finished

    def _after(self, params: nnx.State) -> Beginning:
        """Hand parameters on to the next stage, which may read them again from this one's last checkpoint."""
        folder, wanted = self.recipe.run_folder / "stages" / self.name, by_path(self.params)
        return Beginning(lambda: with_parameters(self.params, read_parameters(folder, wanted)), params)

    def _begin(
        self,
        beginning: Beginning,
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
            checkpoint = self.store.restore(by_path(shapes.params), _beside_parameters(shapes), self._check)
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
        self.tracker.flush()
        self.store.save(update, by_path(state.params), _beside_parameters(state), meta, metrics.get("loss"))

    def _batches(
        self,
        source: EpisodeSource,
        encoder: RowEncoder,
        seed: int,
        beginning: Beginning,
        part: str,
        *,
        whole: bool = False,
    ) -> Batches:
        """Make batches of this process's rows, or of all of them."""
        return make_batches(
            self.run,
            source,
            encoder,
            seed,
            held_out=part == "held_out",
            shard=Shard(None if whole else process_rows(self.mesh, self.run.batch_size)),
            model=lambda: nnx.merge(self.graphdef, beginning.read()),
            file=self.recipe.run_folder / "references" / f"{self.name}_{part}.npy",
        )

    def _acting(self, *, held_out: bool = False) -> Any:
        options = {"seed": self.recipe.seed, "stream": self.stream, "held_out": held_out, "mesh": self.mesh}
        return make_acting(self.graphdef, self.run.stage, self.tokenizer, **options)

    def _sampler(self, held_out: EpisodeSource, encoder: RowEncoder, beginning: Beginning, act: Any) -> Any:
        if act is None:
            raise ValueError(
                f"stages.{self.name}.loop.sample_every = {self.run.loop.sample_every} wants conversations that the "
                f"stage leads, but {self.run.stage.kind} leads none. Set it to 0."
            )
        batch = self._place(self._batches(held_out, encoder, self.recipe.seed, beginning, "held_out")[0])
        folder = self.recipe.run_folder / "samples" / self.name
        return make_sampler(self.run.stage, act, batch, self.tokenizer, folder)

    def _peak_seconds(self, batch: Any) -> float | None:
        """Say how long all devices would need for an update at their peak, None where either is not known."""
        peak = device_peak(self.mesh.devices.flat[0].device_kind)
        operations = None if peak is None else self.run.stage.operations(self.recipe.model, batch)
        if peak is None or operations is None:
            return None
        rows = jax.tree.leaves(batch)[0].shape[self.run.stage.batch_axis]
        return operations * self.run.batch_size / rows / (peak * self.mesh.size)

    def _place(self, batch: Any) -> Any:
        return place_batch(batch, self.mesh, self.run.stage.batch_axis, self.run.batch_size)

    def _held_out_loss(self, batches: Batches, act: Any) -> Callable[[TrainState], dict[str, float]]:
        stage = self.run.stage
        prepared = [self._place(batches[number]) for number in range(_HELD_OUT_BATCHES)]

        def score(params: nnx.State, carry: Any, batch: Any) -> Any:
            rebuild = rebuilder(self.graphdef, params)
            arguments = stage.objective_arguments(carry, rebuild)
            loss, metrics = stage.objective(rebuild({}), batch, None, stage.label_counts(batch), **arguments)
            return metrics | stage.batch_metrics(batch) | {"loss": (loss, jax.numpy.float32(1.0))}

        together = CompiledTogether(jax.jit(score), "evaluation")

        def evaluate(state: TrainState) -> dict[str, float]:
            sums = MetricSums()
            for number, batch in enumerate(prepared):
                acted = batch if act is None else act(state, batch, number)
                sums.add(together(state.params, state.carry, acted))
            return sums.read()

        return evaluate

    def _report(self, result: LoopResult, seconds: float, start: int, console: Console) -> None:
        sitting = {"from": start, "to": int(result.state.update), "seconds": seconds}
        sitting |= {"time_shares": result.time_shares}
        spent = {"compile_seconds": result.compile_seconds, "seconds_per_update": result.seconds}
        device = f"{self.mesh.size} × {self.mesh.devices.flat[0].device_kind}"
        if is_writer():
            note_stage(self.recipe.run_folder, self.name, sitting | spent | {"device": device})
        console.print(
            f"{self.name}: {int(result.state.update)} updates in {seconds:.0f} s "
            f"({result.compile_seconds:.0f} s to compile, {1000 * result.seconds:.0f} ms per update, "
            f"at most {100 * result.time_shares['data']:.1f} % of it waiting for data)"
        )


def _beside_parameters(state: TrainState) -> dict[str, Any]:
    """Pick what a checkpoint keeps beside the parameters. Older ones number its leaves in this order."""
    return {"optimizer": state.opt_state, "stage": state.carry}


def _identity(model: AnyModelConfig | None, run: StageRun | None, seed: int | None) -> dict[str, Any]:
    """Say, in JSON, what a checkpoint belongs to; its place in the data has an account of its own (`Batches.state`)."""
    stage = to_json(run)
    if stage is not None:
        stage = {name: value for name, value in stage.items() if name not in ("loop", "data")}
    return json.loads(json.dumps({"model": to_json(model), "stage": stage, "seed": seed}))
