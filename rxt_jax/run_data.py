"""What a run reads: its sources, its tokenizer, and the batches of its stages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import Batches, Shard
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import train_tokenizer
from rxt_jax.processes import is_writer, said_by_writer
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.run_folder import run_and_stage
from rxt_jax.stages.stage import Reading

__all__ = ["Sources", "make_batches", "open_tokenizer", "with_config"]


def make_batches(
    run: StageRun,
    source: EpisodeSource,
    encoder: RowEncoder,
    seed: int,
    *,
    held_out: bool = False,
    shard: Shard | None = None,
    model: Callable[[], Any] | None = None,
    file: Path | None = None,
) -> Batches:
    """Make the batches that a stage reads; those of `held_out` data are never sampled.

    `shard` are the rows that this process makes, all without it. `model` makes the one that the stage begins with,
    `file` is where it may keep what it computes from the data.
    """
    if held_out and encoder.config.subword_sampling:
        encoder = with_config(encoder, replace(encoder.config, subword_sampling=0.0))
    return run.stage.batches(Reading(source, encoder, run.batch_size, seed, shard or Shard(), model, file))


class Sources:
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


def with_config(encoder: RowEncoder, config: DataConfig) -> RowEncoder:
    """Encode rows of other settings; what is read is counted in the same report."""
    return encoder if config == encoder.config else RowEncoder(encoder.tokenizer, config, encoder.report)


def open_tokenizer(recipe: Recipe, folder: Path, source: EpisodeSource, *others: EpisodeSource) -> Tokenizer:
    """Open the tokenizer of a run's folder. Where it has none yet it is that of the recipe, or learnt from the sources,
    and process 0 puts it there."""
    if is_writer():
        _provide_tokenizer(recipe, folder, source, *others)
    said_by_writer(None)  # the others wait until it is there
    return load_tokenizer(folder)


def _provide_tokenizer(recipe: Recipe, folder: Path, source: EpisodeSource, *others: EpisodeSource) -> None:
    if any((folder / name).is_file() for name in (MODEL_FILE, JSON_FILE)):
        return
    ready = recipe.tokenizer.path
    if recipe.start_from is not None:
        ready = run_and_stage(recipe.start_from)[0]
        if not ready.is_dir():
            raise FileNotFoundError(
                f"start_from: {recipe.start_from} does not exist; expected the folder of a run, one of its "
                f"stages/<name>, or 'companion'"
            )
    if ready is None:
        # Prepared data bring the tokenizer they were made with.
        folders = (each.tokenizer_folder for each in (source, *others))
        ready = next((folder for folder in folders if folder is not None), None)
    if ready is not None:
        load_tokenizer(ready).save(folder)
        return
    texts = (source.text(number) for number in range(recipe.tokenizer.texts))
    train_tokenizer(texts, recipe.tokenizer, folder)
