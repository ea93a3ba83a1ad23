"""A recipe: everything a run is, as one tree of frozen dataclasses, and its way to JSON and back.

A file in `configs/` is Python that defines `recipe`; it says only what differs from a preset.
"""

import dataclasses
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rxt_jax.compatibility import Compatibility
from rxt_jax.data.config import (
    DataConfig,
    DataSource,
    DialogueData,
    FaultPolicy,
    FileData,
    MixedData,
    PackingConfig,
    PartData,
)
from rxt_jax.data.dialogues.spec import DialogueSpec
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.losses.preference import PreferenceConfig
from rxt_jax.model import BaselineConfig
from rxt_jax.model.config import DecoderConfig, EncoderConfig, MemoryConfig, ModelConfig
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig
from rxt_jax.nn.memory_norms import MemoryNormConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.sharding import MeshConfig
from rxt_jax.stages import (
    ConversationSft,
    DirectMemoryPreference,
    HistoryReading,
    InteractionSft,
    JointPretraining,
    MemoryAware,
    MemoryPretraining,
)
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.train.schedule import ScheduleConfig

__all__ = ["Recipe", "StageConfig", "StageRun", "from_json", "load_recipe", "to_json"]

StageConfig = (
    JointPretraining
    | InteractionSft
    | HistoryReading
    | MemoryPretraining
    | MemoryAware
    | DirectMemoryPreference
    | ConversationSft
)


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of a run: its objective, how long, how many rows at once, and its optimizer.

    `source` are other data to train on than the recipe's (None = the recipe's), for a curriculum. `max_interactions`
    shortens the episodes of this stage (None = as the data says); `accumulation` splits a batch into that many
    micro-batches.
    """

    stage: StageConfig
    updates: int
    batch_size: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    accumulation: int = 1
    max_interactions: int | None = None
    source: DataSource | None = None
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size = {self.batch_size} must be a multiple of accumulation, got {self.accumulation}."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. Stages run in order, each from the parameters of the one before.

    `name` names the run folder `runs/<name>` unless `folder` is given. `cpu_devices` splits the CPU
    into that many devices (None = one): two use two cores better for small models. `start_from` is
    another run's folder, or one of its `stages/<name>`: its tokenizer and parameters are where this
    run begins; parameters that it lacks or has in another shape start fresh and are listed.
    """

    name: str
    model: ModelConfig | BaselineConfig
    stages: dict[str, StageRun]
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    cpu_devices: int | None = None
    seed: int = 0
    start_from: str | None = None
    folder: str | None = None
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must name at least one stage run.")
        stateless = isinstance(self.model, BaselineConfig)
        for name, run in self.stages.items():
            if isinstance(run.stage, ConversationSft) != stateless:
                raise ValueError(
                    f"stage {name!r} is {run.stage.kind}, which does not train a {type(self.model).__name__}: "
                    f"conversation_sft and BaselineConfig belong together, the other stages and ModelConfig."
                )
        field_name = "conversation_length" if stateless else "max_length"
        length = getattr(self.data, field_name)
        if length > self.model.max_length:
            raise ValueError(
                f"data.{field_name} = {length} exceeds model.max_length = {self.model.max_length}. "
                f"Raise the latter or shorten the rows."
            )

    @property
    def has_preferences(self) -> bool:
        """Tell whether a stage learns from preferences."""
        return any(isinstance(run.stage, DirectMemoryPreference) for run in self.stages.values())

    @property
    def run_folder(self) -> Path:
        """Return where everything of this run is written."""
        return Path(self.folder) if self.folder else Path("runs") / self.name


_TYPES = {
    cls.__name__: cls
    for cls in (
        AttentionConfig,
        BaselineConfig,
        Compatibility,
        ConversationSft,
        DataConfig,
        DecoderConfig,
        DialogueData,
        DialogueSpec,
        DirectMemoryPreference,
        EncoderConfig,
        EvaluationConfig,
        FaultPolicy,
        FeedForwardConfig,
        FileData,
        HistoryReading,
        InteractionSft,
        JointPretraining,
        LoopConfig,
        MemoryAware,
        MemoryConfig,
        MemoryLayerConfig,
        MemoryNormConfig,
        MemoryPretraining,
        MeshConfig,
        MixedData,
        MixtureConfig,
        ModelConfig,
        OptimizerConfig,
        PackingConfig,
        PartData,
        PreferenceConfig,
        Recipe,
        ResidualGateConfig,
        RotaryConfig,
        ScheduleConfig,
        StageRun,
        TokenizerConfig,
    )
}


_RETIRED = {"JointPretraining": {"mask_id"}, "InteractionSft": {"mask_id"}}
"""Fields that runs of earlier versions have and that nothing reads any more."""


def to_json(value: Any) -> Any:
    """Write a config as JSON values; a dataclass becomes an object with its class under `type`."""
    if dataclasses.is_dataclass(value):
        fields = {each.name: to_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any, place: str = "recipe") -> Any:
    """Read what `to_json` wrote; an unknown class or field is an error that names it."""
    if isinstance(value, list):
        return tuple(from_json(item, f"{place}[{number}]") for number, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        return {key: from_json(item, f"{place}.{key}") for key, item in value.items()}
    if value["type"] not in _TYPES:
        raise ValueError(f"{place}: unknown type {value['type']!r}; was this run made by a newer version?")
    cls = _TYPES[value["type"]]
    known = {each.name for each in dataclasses.fields(cls)}
    value = {name: item for name, item in value.items() if name not in _RETIRED.get(value["type"], ())}
    unknown = sorted(set(value) - known - {"type"})
    if unknown:
        raise ValueError(
            f"{place}: {value['type']} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    return cls(**{name: from_json(item, f"{place}.{name}") for name, item in value.items() if name != "type"})


def load_recipe(path: str | Path) -> Recipe:
    """Run a config file and return its `recipe`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a Python file that defines `recipe`")
    try:
        found = runpy.run_path(str(path)).get("recipe")
    except TypeError as error:
        raise ValueError(f"{path}: {error}; see the dataclass for its fields") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, Recipe):
        raise ValueError(f"{path}: expected `recipe = Recipe(...)`, got {type(found).__name__}")
    return found
