"""What a stage of training is: the one contract between its config, its rows, the train step and the loop.

    rows ──▶ batch u ──▶ (act with the state at hand) ──▶ objective ──▶ gradient ──▶ update ──▶ next carry

A stage is a frozen dataclass whose fields are its options. It says which rows it reads (`rows`), what it is measured on
(`held_out`), which parameter groups train (`trainable`, `unfreeze`), what it takes from update to update beside
parameters and moments (its *carry*: a frozen reference, running averages, replay), and its loss. A new stage is one
file in this folder and one line in its `__init__`: recipes, JSON, runs and resuming know it from there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
from flax import nnx

from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import Batches, EpisodeBatches, Shard
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model import ModelConfig
from rxt_jax.types import Array, Key, Metrics

__all__ = ["Act", "Beginning", "EpisodeStage", "Passes", "Reading", "Rebuild", "Stage"]

Rebuild = Callable[[dict[str, Array]], Any]
"""Make a model from values (path → array) for some of its parameters; the others are those of the state."""

Act = Callable[[nnx.State, Any, Any, Array, Key], Any]
"""`(params, carry, batch, update, key) -> batch`: make the batch of an update with the state at hand.

A pure function of arrays, which `train.acting` compiles."""


class Reading(NamedTuple):
    """Everything that a run's batches are made of.

    `model` makes the model that the stage begins with: a function, because a run that goes on has no other use for it.
    `file` is one of the run's where a stage may keep what it computed from the data (`.npy`). A stage that wants
    neither gets along without.
    """

    source: EpisodeSource
    encoder: RowEncoder
    batch_size: int
    seed: int
    shard: Shard = Shard()
    model: Callable[[], Any] | None = None
    file: Path | None = None

    def batches(self, rows: type[Batches], **options: Any) -> Batches:
        """Make batches of a kind of rows."""
        return rows(self.source, self.encoder, batch_size=self.batch_size, seed=self.seed, shard=self.shard, **options)


class Beginning(NamedTuple):
    """Everything that the carry of the first update is made of.

    `groups` are the parameters (path → array) of each group that trains, `params` all of them, `state` and `graphdef`
    the model they belong to; `batch` is one that the stage reads, as it is read.
    """

    groups: Mapping[str, dict[str, Array]]
    params: dict[str, Array]
    state: Any = None
    graphdef: Any = None
    tokenizer: Any = None
    batch: Any = None


class Passes(NamedTuple):
    """How often a batch is learnt from: `epochs` passes, each over `minibatches` of its rows, one update for each.

    `limit` (metric, value): no further pass once the mean of that metric over a pass is above the value.
    """

    epochs: int = 1
    minibatches: int = 1
    limit: tuple[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """What every stage answers; the defaults are those of a stage that reads its rows and carries nothing."""

    kind: ClassVar[str]
    rows: ClassVar[type[Batches]]
    model_config: ClassVar[type] = ModelConfig
    """The class of the configs of the models that it trains."""
    unfreeze: ClassVar[tuple[tuple[int, tuple[str, ...]], ...]] = ()
    watched: ClassVar[tuple[str, ...]] = ()
    """Metrics that are shown beside the loss while the stage trains."""

    trainable: tuple[str, ...]
    """Parameter groups that train; the others stand still."""

    @property
    def batch_axis(self) -> int:
        """The axis of every leaf of a batch that counts its rows."""
        return self.rows.batch_axis

    @abstractmethod
    def label_counts(self, batch: Any) -> dict[str, Array]:
        """Count the denominators of the loss terms, from the batch alone; those of micro-batches add up."""

    @abstractmethod
    def objective(
        self, model: Any, batch: Any, key: Key | None, counts: dict[str, Array], **arguments: Any
    ) -> tuple[Array, Metrics]:
        """Compute loss and metrics of a batch: Σ over terms of scale · (sum of the term) / `counts[term]`.

        `key` None is deterministic, `counts` are the label counts of the whole update, `arguments` what
        `objective_arguments` gives.
        """

    def check_model(self, config: Any) -> None:
        """Raise a `ValueError` for a config of `model_config` that this stage cannot train."""
        return

    def batches(self, reading: Reading) -> Batches:
        """Make the batches that this stage reads."""
        return reading.batches(self.rows)

    def held_out(self, data: DataConfig) -> DataSource:
        """Choose the source that it is measured on."""
        return data.evaluation_source

    def operations(self, config: Any, batch: Any) -> float | None:
        """Count the floating-point operations that an update on a batch asks of a model of `config`, of all rows.

        `batch` is one on the host. None (the default): nobody has counted them, and no share of a peak is reported.
        """
        return None

    @property
    def passes(self) -> Passes:
        """How often a batch is learnt from; the default is one update."""
        return Passes()

    def batch_metrics(self, batch: Any) -> Metrics:
        """Say what a batch itself is like, once per batch however often it is learnt from."""
        return {}

    def continued(self) -> Self:
        """Give this stage as it is in the later runs of a curriculum, which go on with what the first one made."""
        return self

    def first_params(self, params: dict[str, Array]) -> dict[str, Array]:
        """Change parameters (path → array) before the first update, where a part begins as another one's copy."""
        return params

    def first_carry(self, beginning: Beginning) -> Any:
        """Make the carry of the first update, any pytree."""
        return {}

    def next_carry(self, carry: Any, batch: Any, trained: dict[str, Array], update: Array) -> Any:
        """Move the carry after an update: `trained` are the parameters then, `update` is how many updates are done."""
        return carry

    def objective_arguments(self, carry: Any, rebuild: Rebuild) -> dict[str, Any]:
        """Turn the carry into keyword arguments of the objective, outside of its gradient."""
        return {}

    def make_act(self, graphdef: nnx.GraphDef, tokenizer: Tokenizer, *, held_out: bool = False) -> Act | None:
        """Make the function that a stage acts with (rollouts), None for a stage that trains on what it reads.

        `held_out`: it acts on data that the stage is measured on, so that nothing of training gets into them. It gets
        what the stage reads and returns what the objective gets, with rows on the same axis of every leaf. It is
        called inside `jax.jit`, for all rows of all devices. The batch of an update is to depend on its arguments
        alone: then resuming is exact.
        """
        return None

    def transcripts(self, batch: Any, tokenizer: Tokenizer) -> list[str]:
        """Write down conversations of a batch that it acted, NumPy arrays, to be looked at; none is nothing to see."""
        return []


class EpisodeStage(Stage):
    """A stage that walks episodes and can update inside of them, every `interactions_per_update` (None: at their end).

    Whatever `objective_arguments` gives, `begin` and `window_objective` get as well.
    """

    rows: ClassVar[type[Batches]] = EpisodeBatches
    interactions_per_update: ClassVar[int | None] = None

    @abstractmethod
    def interactions(self, batch: Any) -> Any:
        """Prepare a batch for the engine: a pytree with a leading I and a field `valid[I B]`."""

    @abstractmethod
    def begin(self, model: Any, batch_size: int, key: Key | None, **arguments: Any) -> Any:
        """Give the memory at the start of an episode; without a key always the same one."""

    def first_memory(self, model: Any, batch: Any, key: Key | None, **arguments: Any) -> Any:
        """Give the memory that the episodes of a batch begin with; the default is `begin` for as many rows."""
        rows = jax.tree.leaves(batch)[0].shape[self.batch_axis]
        return self.begin(model, rows, key, **arguments)

    @abstractmethod
    def window_objective(
        self,
        model: Any,
        memory: Any,
        interactions: Any,
        key: Key | None,
        counts: dict[str, Array],
        *,
        start: int | Array = 0,
        **arguments: Any,
    ) -> tuple[Array, tuple[Any, Metrics]]:
        """Score a window that starts with `memory` at interaction `start`; return the memory after it."""
