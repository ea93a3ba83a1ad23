"""A recipe: everything a run is, as one tree of frozen dataclasses, and its way to JSON and back.

A file in `configs/` is Python that defines `recipe`; it says only what differs from a preset.
"""

import copy
import dataclasses
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rxt_jax.data.config import DataConfig, DataSource
from rxt_jax.data.curriculum import Curriculum
from rxt_jax.data.loader import PreferenceBatches
from rxt_jax.data.tokenizer_training import TokenizerConfig
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import BaselineConfig
from rxt_jax.model.config import ModelConfig
from rxt_jax.paths import as_path, local_only
from rxt_jax.sharding import MeshConfig
from rxt_jax.stages import Stage
from rxt_jax.train.groups import GROUP_PATTERNS
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig

__all__ = [
    "Recipe",
    "StageRun",
    "curriculum_runs",
    "from_json",
    "lengthening_runs",
    "load_recipe",
    "shortened",
    "to_json",
]


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One stage of a run: its objective, how long, how many rows at once, and its optimizer."""

    stage: Stage
    """The objective with its options."""
    updates: int
    """Batches to train on."""
    batch_size: int
    """Rows or episodes of a batch, over all devices."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """What makes updates of gradients."""
    accumulation: int = 1
    """Micro-batches that a batch is split into; divides `batch_size`."""
    max_interactions: int | None = None
    """Interactions that the episodes of this stage are cut to; None = as the data says."""
    value_weight: float | None = None
    """What a token of a recalled value counts in the loss of this stage; None = as the data says."""
    data: DataConfig | DataSource | None = None
    """Data of its own: a source to train on with the recipe's rows and held-out data, or a whole `DataConfig`; None =
    the recipe's. So one recipe reads texts for stage 1 and preferences for stage 5, and a list of stage runs is a
    curriculum."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How often it reports, evaluates and saves."""

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
    """A whole run."""

    name: str
    """Names the run folder `runs/<name>`."""
    model: ModelConfig | BaselineConfig
    """The model that all stages train."""
    stages: dict[str, StageRun]
    """Stages by name. They run in this order, each from the parameters of the one before."""
    data: DataConfig = field(default_factory=DataConfig)
    """What stages without data of their own read, what the tokenizer learns from, and what the run is evaluated on."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """How the tokenizer is trained, or where it is."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured at the end."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How the devices share the work."""
    cpu_devices: int | None = None
    """Devices that the CPU is split into: two use two cores better for small models. None = one."""
    seed: int = 0
    """What fresh parameters, the order of a file's records, dropout and noise are drawn from. Generated data have a
    seed of their own (`data.source.seed`): the embedded dialogues come in the order of their numbers."""
    start_from: str | None = None
    """Another run's folder, or one of its `stages/<name>`, whose tokenizer and parameters this run begins with;
    parameters that it lacks or has in another shape start fresh and are listed. None = all start fresh."""
    start_fresh: tuple[str, ...] = ()
    """Parts of the model that start fresh although `start_from` has them, such as `memory_attention` or
    `decoder/head`: the beginning of their paths."""
    folder: str | None = None
    """The run folder; None = `runs/<name>`."""
    keep_checkpoints: int = 2
    """Newest checkpoints of a stage that stay, besides the best one."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must name at least one stage run.")
        if self.cpu_devices is not None and self.cpu_devices < 1:
            raise ValueError(
                f"cpu_devices must be at least 1, got {self.cpu_devices}. None leaves the CPU in one piece."
            )
        if self.start_fresh and self.start_from is None:
            raise ValueError(f"start_fresh = {self.start_fresh} needs start_from: without it everything starts fresh.")
        if self.keep_checkpoints < 1:
            raise ValueError(
                f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}: a run needs its newest."
            )
        for name, run in self.stages.items():
            if name in ("", ".", "..") or set(name) & set("/\\\0"):
                raise ValueError(f"a stage's name is that of a folder and has no slashes, got {name!r}.")
            if not isinstance(self.model, run.stage.model_config):
                raise ValueError(
                    f"stage {name!r} is {run.stage.kind}, which does not train a {type(self.model).__name__}: "
                    f"it belongs with a {run.stage.model_config.__name__}."
                )
            run.stage.check_model(self.model)
        field_name = "conversation_length" if isinstance(self.model, BaselineConfig) else "max_length"
        places = {"data": self.data} | {f"stages.{name}.data": self.data_of(run) for name, run in self.stages.items()}
        for place, data in places.items():
            length = getattr(data, field_name)
            if length > self.model.max_length:
                raise ValueError(
                    f"{place}.{field_name} = {length} exceeds model.max_length = {self.model.max_length}. "
                    f"Raise the latter or shorten the rows."
                )

    def data_of(self, run: StageRun) -> DataConfig:
        """Return the data that a stage run reads, with the length and the weight that it has of its own."""
        data = self.data if run.data is None else run.data.within(self.data)
        own = {"max_interactions": run.max_interactions, "value_weight": run.value_weight}
        return replace(data, **{name: value for name, value in own.items() if value is not None})

    @property
    def preference_stage(self) -> str | None:
        """Name the first stage that learns from preferences, None without one."""
        reading = (name for name, run in self.stages.items() if issubclass(run.stage.rows, PreferenceBatches))
        return next(reading, None)

    @property
    def held_out_preferences(self) -> DataSource | None:
        """Return the preferences that the run is measured on, None where no stage learns any or there are none."""
        name = self.preference_stage
        return None if name is None else self.data_of(self.stages[name]).held_out_preferences

    @property
    def run_folder(self) -> Path:
        """Return where everything of this run is written."""
        return as_path(self.folder) if self.folder else Path("runs") / self.name


def curriculum_runs(
    name: str, run: StageRun, curriculum: Curriculum, data: DataConfig | None = None
) -> dict[str, StageRun]:
    """Make the stage runs of a curriculum, entry after entry: `run` on each entry's data and as long as its episodes.

    `data` says what their rows are like. An entry without held-out data is measured on those of `data`. Names are
    `name-4`, `name-8`, `name-8-lr` (long range).
    """
    runs = {}
    for entry in curriculum:
        own = replace(data or DataConfig(), source=entry.dataset)
        if entry.eval_dataset is not None:
            own = replace(own, evaluation_source=entry.eval_dataset)
        place = f"{name}-{entry.steps}" + ("-lr" if entry.is_long_range else "")
        stage = run.stage.continued() if runs else run.stage
        runs[place] = replace(run, stage=stage, data=own, max_interactions=entry.max_interactions)
    return runs


def lengthening_runs(name: str, run: StageRun, steps: Sequence[int]) -> dict[str, StageRun]:
    """Make the stage runs of a curriculum on the same data: `run` on episodes of 2, then 4, then 8 answers, say.

    `steps` are the answers of an episode, one by one (`stages.reinforcement_plans.curriculum_steps`); the first
    interaction is written and not answered, so an episode has one more. What should differ from step to step,
    `dataclasses.replace` changes in the runs that this returns. Names are `name-2`, `name-4`.
    """
    if len(set(steps)) < len(steps) or not steps or min(steps) < 1:
        raise ValueError(f"steps must be different numbers of at least 1, got {list(steps)}.")
    stages = (run.stage.continued() if number else run.stage for number in range(len(steps)))
    return {
        f"{name}-{length}": replace(run, stage=stage, max_interactions=length + 1)
        for length, stage in zip(steps, stages, strict=True)
    }


_OLD_FIELDS = {
    ("StageRun", "source"): "data",
    ("JointPretraining", "mask_id"): None,
    ("JointPretraining", "loss_on_padding"): "compatibility.loss_on_padding",
    ("JointPretraining", "read_padding"): "compatibility.read_padding",
    ("DirectMemoryPreference", "memory_rule"): "compatibility.memory_rule",
    ("HistoryReading", "remat"): None,
    ("DataConfig", "parse_control_tokens_in_text"): "compatibility.parse_control_tokens_in_text",
    ("DataConfig", "end_every_answer"): "compatibility.one_eos_per_conversation",
    ("DataConfig", "packing.published"): "compatibility.packed_documents_see_each_other",
}
"""Fields of runs that earlier versions wrote, and where they are now (None = nothing reads them any more). A dot leads
into a field of the field before it; what holds of a class holds of those derived from it."""

_OLD_VALUES: dict[tuple[str, str], dict[Any, Any]] = {
    ("AttentionConfig", "implementation"): {"reference": "einsum"},
    ("DirectMemoryPreference", "memory_rule"): {"reference": "published", "document": "first_described"},
    ("DataConfig", "end_every_answer"): {True: False, False: True},
    ("Stage", "remat"): {True: "full", False: "none"},
}
"""Values of fields (by the names they had) that earlier versions wrote, and what they are called now."""

_LATE_GROUPS = (("critic", "reward_model", "reward_memory"), ("reward_model", "reward_memory"))
_OLD_DEFAULTS = {
    ("OptimizerConfig", "groups"): [
        [list(pair) for pair in GROUP_PATTERNS if pair[0] not in late] for late in _LATE_GROUPS
    ],
}
"""Values that were the default when they were written: they mean today's default."""


def shortened(recipe: Recipe, share: float, *, episodes: int | None = None) -> Recipe:
    """Return a recipe with a share of its updates, to see it through from end to end.

    share: of the updates of every stage, above 0; each has at least one.
    episodes: held-out conversations of an evaluation, in batches of at most that many; None as the recipe says.
    """
    if share <= 0:
        raise ValueError(f"share must be above 0, got {share}. It is a share of the updates.")
    stages = {name: replace(run, updates=max(round(run.updates * share), 1)) for name, run in recipe.stages.items()}
    evaluation = recipe.evaluation
    if episodes is not None:
        evaluation = replace(evaluation, episodes=episodes, batch_size=min(evaluation.batch_size, episodes))
    return replace(recipe, stages=stages, evaluation=evaluation)


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
    """Read what `to_json` wrote, today or under older names; an unknown class or field is an error that names it."""
    types: dict[str, dict[str, type]] = {}
    for cls in _config_classes(Recipe, set()):
        # A class that was defined again (a notebook's cell) takes the place of what it was before.
        types.setdefault(cls.__name__, {})[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return _read(value, place, types)


def _config_classes(hint: Any, found: set[Any]) -> Iterator[type]:
    """Yield the dataclasses that a type hint speaks of, those of their fields, and what is derived from them."""
    for part in get_args(hint):
        yield from _config_classes(part, found)
    if not isinstance(hint, type) or not dataclasses.is_dataclass(hint) or hint in found:
        return
    found.add(hint)
    yield hint
    hints = get_type_hints(hint)
    for each in (*(hints[each.name] for each in dataclasses.fields(hint)), *hint.__subclasses__()):
        yield from _config_classes(each, found)


def _read(value: Any, place: str, types: Mapping[str, Mapping[str, type]]) -> Any:
    if isinstance(value, list):
        return tuple(_read(item, f"{place}[{number}]", types) for number, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        return {key: _read(item, f"{place}.{key}", types) for key, item in value.items()}
    name = value["type"]
    if name not in types:
        raise ValueError(
            f"{place}: unknown type {name!r}; was this run made by a newer version, or does it need a module of yours "
            f"that is not imported?"
        )
    if len(types[name]) > 1:
        raise ValueError(f"{place}: {name} may be {' or '.join(types[name])}; config classes need names of their own.")
    (cls,) = types[name].values()
    fields = {
        key: item for key, item in _of_today(cls, value).items() if item not in _OLD_DEFAULTS.get((name, key), ())
    }
    known = {each.name for each in dataclasses.fields(cls)}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ValueError(f"{place}: {name} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return cls(**{key: _read(item, f"{place}.{key}", types) for key, item in fields.items()})


def _of_today(cls: type, value: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the fields of a stored object, those of earlier versions under their present names and values."""
    fields = copy.deepcopy({key: item for key, item in value.items() if key != "type"})
    classes = {each.__name__ for each in cls.__mro__}
    known = {each.name for each in dataclasses.fields(cls)}  # a derived class may have a field of an old name
    for (name, field_name), renamed in _OLD_VALUES.items():
        if name in classes and field_name in fields:
            fields[field_name] = renamed.get(fields[field_name], fields[field_name])
    for (name, old), new in _OLD_FIELDS.items():
        *outer, last = old.split(".")
        holder: Any = fields
        for part in outer:
            holder = holder.get(part) or {}
        if name not in classes or old in known or last not in holder:
            continue
        item = holder.pop(last)
        if new is None:
            continue
        *outer, last = new.split(".")
        holder, owner = fields, cls
        for part in outer:
            owner = get_type_hints(owner)[part]
            holder = holder.setdefault(part, {"type": owner.__name__})
        holder[last] = item
    return fields


def load_recipe(path: str | Path) -> Recipe:
    """Run a config file and return its `recipe`."""
    path = local_only(path, "a recipe is a Python program")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; expected a Python file that defines `recipe`")
    try:
        found = runpy.run_path(str(path)).get("recipe")
    except TypeError as error:
        raise ValueError(f"{path}: {error}; see the dataclass for its fields") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (SyntaxError, NameError, ImportError, AttributeError, LookupError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error} (RXT_TRACEBACK=1 shows where)") from error
    if not isinstance(found, Recipe):
        raise ValueError(f"{path}: expected `recipe = Recipe(...)`, got {type(found).__name__}")
    for place, hint, value in _wrong_fields(found, "recipe"):
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        expected = f"one of {', '.join(map(repr, choices))}" if choices else _type_name(hint)
        raise ValueError(f"{path}: {place} must be {expected}, got {value!r}")
    return found


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _wrong_fields(config: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Find fields whose value is not what their type says, innermost first: place, type and value of each."""
    import typeguard  # no other command pays for it

    if isinstance(config, Mapping | list | tuple):
        items = config.items() if isinstance(config, Mapping) else enumerate(config)
        for name, each in items:
            yield from _wrong_fields(each, f"{place}.{name}")
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return
    hints = get_type_hints(type(config))
    for each in dataclasses.fields(config):
        value, within = getattr(config, each.name), f"{place}.{each.name}"
        yield from _wrong_fields(value, within)
        try:
            strategy = typeguard.CollectionCheckStrategy.ALL_ITEMS
            typeguard.check_type(value, hints[each.name], collection_check_strategy=strategy)
        except typeguard.TypeCheckError:
            yield within, hints[each.name], value
