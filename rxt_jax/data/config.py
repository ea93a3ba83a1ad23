"""Which data a run reads, and how long its rows are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from rxt_jax.compatibility import DataCompatibility
from rxt_jax.data.dialogues.spec import DialogueSpec, tiny

__all__ = [
    "BATCH_FIELDS",
    "DataConfig",
    "DataSource",
    "DialogueData",
    "FaultPolicy",
    "FileData",
    "MixedData",
    "Overlong",
    "PackingConfig",
    "PartData",
    "RecordKind",
    "changed_settings",
]

RecordKind = Literal["episode", "interaction", "text", "conversation", "preference_episode", "preference_pair"]
"""What a record of a file is, see `docs/data.md`; `conversation` has chat messages or is an episode."""

Overlong = Literal["drop_record", "cut_input_first", "right", "longest_first", "error"]
"""What happens to an interaction of more than `max_length` tokens; all are counted by reason.

`drop_record` cuts it on the right and drops it if no target is left: it becomes filler. `cut_input_first` takes tokens
of its instruction, then of its question away, on the left, and only then of its answer, on the right. `right` cuts on
the right and keeps it even without a target (published). `longest_first` shortens the longer one of question and answer
(published for plain pairs). `error` stops the run."""


class SourceDescription:
    """What every description of data answers beside being opened; these are the answers where nothing is known of the
    records before they are read."""

    is_embedded: ClassVar[bool] = False
    """Whether these are the embedded dialogues and nothing else."""

    @property
    def longest_episode(self) -> int | None:
        """Return the most interactions that an episode can have, None where only reading tells."""
        return None

    def splits(self, names: Sequence[str], seed: int) -> "dict[str, DataSource]":
        """Return the data to measure on where this is the held-out data: the splits of these names, made with `seed`,
        or all of it as one."""
        return {"held_out": self}  # type: ignore[dict-item]

    def with_preferences(self) -> "DataSource | None":
        """Return the same episodes with rejected answers, None where there are none."""
        return None

    def within(self, data: "DataConfig") -> "DataConfig":
        """Return settings that read this and are `data` otherwise."""
        return replace(data, source=self)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class DialogueData(SourceDescription):
    """Conversations made on the fly, without end."""

    is_embedded = True

    spec: DialogueSpec = field(default_factory=tiny)
    """What they are about and how long they are."""
    seed: int = 0
    """What they are drawn from; 0 is that of the README's figures."""
    split: str = "train"
    """`train`, or one of the held-out splits of `rxt_jax.data.dialogues.SPLITS`."""
    preferences: bool = False
    """Give every answer that recalls something a rejected form as well, which names another value."""

    @property
    def longest_episode(self) -> int:
        """Return the interactions of the longest kind of episode."""
        return max(self.spec.interactions[1], self.spec.longer_interactions[1], self.spec.longest_interactions[1])

    def splits(self, names: Sequence[str], seed: int) -> "dict[str, DataSource]":
        """Return held-out splits by name."""
        return {name: replace(self, split=name, seed=seed) for name in names}

    def with_preferences(self) -> "DialogueData":
        """Return the same episodes with rejected answers."""
        return replace(self, preferences=True)


@dataclass(frozen=True, kw_only=True)
class FaultPolicy:
    """What happens to bad records."""

    mode: Literal["strict", "tolerant"] = "strict"
    """`strict` stops at the first one, `tolerant` writes each with its reason to `quarantine` and goes on."""
    max_rate: float = 0.05
    """Largest share of all records that may be bad in tolerant reading."""
    quarantine: str | None = None
    """File of bad records (None = in `quarantine/` of the run folder). It is written anew whenever the source is
    opened, so every source needs one of its own."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_rate <= 1.0:
            raise ValueError(f"max_rate must lie in [0, 1], got {self.max_rate}. It is a share of the records.")


@dataclass(frozen=True, kw_only=True)
class FileData(SourceDescription):
    """Records of files."""

    path: str
    """A file, a folder, a glob, `hub:NAME`, `sgd:FOLDER:SPLIT`, `babi:PATH` or `sessions:PATH`
    (`rxt_jax.data.readers`), or a prepared folder."""
    kind: RecordKind = "episode"
    """What a record is, see `docs/data.md`."""
    fields: dict[str, str] = field(default_factory=dict)
    """Our names of fields → those of the file."""
    faults: FaultPolicy = field(default_factory=FaultPolicy)
    """What happens to bad records."""


@dataclass(frozen=True, kw_only=True)
class PartData(SourceDescription):
    """A part of a file's records, or all the others: data to hold out and to keep."""

    source: FileData
    """The file whose records are divided."""
    share: float = 0.1
    """Share of the records that the part has, in (0, 1)."""
    from_start: bool = False
    """The part is the first records instead of the last ones."""
    rest: bool = False
    """All records that are not in the part."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share must lie in (0, 1), got {self.share}. Usual: 0.1.")


@dataclass(frozen=True, kw_only=True)
class MixedData(SourceDescription):
    """Several sources at once."""

    sources: tuple[DialogueData | FileData | PartData, ...]
    """Two or more."""
    weights: tuple[float, ...]
    """One per source: the share of the records that it gives; they need not add up to 1."""

    def __post_init__(self) -> None:
        if len(self.sources) < 2 or len(self.sources) != len(self.weights):
            raise ValueError(
                f"a mixture needs two sources or more and one weight for each, got {len(self.sources)} sources and "
                f"{len(self.weights)} weights."
            )
        if any(weight <= 0 for weight in self.weights):
            raise ValueError(f"weights must be positive, got {self.weights}. Leave out what is not to be read.")


DataSource = DialogueData | FileData | PartData | MixedData


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """Several texts in one row, for stages 1 and 2 (first-fit decreasing within a buffer).

    Documents do not see each other. Source: docs/method.md §13.10.
    """

    buffer: int = 8192
    """Records that are packed at once."""
    shortest: int = 32
    """Tokens, control tokens included; records of fewer are dropped and counted."""

    def __post_init__(self) -> None:
        if self.buffer < 1 or self.shortest < 1:
            raise ValueError(f"buffer and shortest must be at least 1, got {self.buffer} and {self.shortest}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows a run reads, and how they are put together. Source: docs/method.md §13."""

    source: DataSource = field(default_factory=DialogueData)
    """What is trained on, unless a stage run has a source of its own."""
    evaluation_source: DataSource = field(default_factory=lambda: DialogueData(split="iid", seed=1))
    """What is measured on."""
    preference_evaluation_source: DataSource | None = None
    """Preference episodes that a preference stage is measured on beside `evaluation_source` (None: those of the
    embedded dialogues, if the latter are such)."""
    max_length: int = 32
    """Tokens of one interaction."""
    max_interactions: int = 10
    """Interactions of an episode; longer ones keep their beginning and are counted."""
    text_length: int = 48
    """Tokens of a text."""
    conversation_length: int = 320
    """Tokens of a whole conversation, which only the stateless baseline reads at once."""
    mask_probability: float = 0.15
    """Share of the tokens that the encoder has to restore, in (0, 1) (docs/method.md, eq. 61)."""
    overlong: Overlong = "drop_record"
    """What happens to an interaction of more than `max_length` tokens."""
    sort_pool: int = 1
    """Batches that are drawn together and sorted by their number of interactions, so that a batch has few filler
    interactions: those that are filler in every row cost nothing. With buckets sorted by both sizes, rows as well."""
    template: Literal["interaction", "pair"] = "interaction"
    """`pair` writes query and answer only, as published for plain data (docs/method.md, eq. 57)."""
    train_control_tokens: bool = True
    """Whether `[T]`, `[A]` and `[C]` are targets."""
    train_eos: bool = True
    """Whether `[EOS]` is a target."""
    value_weight: float = 1.0
    """How much a token of a value that an answer recalls counts in the loss of an episode, in tokens that recall
    nothing. Values are those that records name in `recall`; prepared folders do not keep them apart."""
    use_system_prompt: bool = False
    """Write an episode's `system` into memory before its first interaction."""
    end_cut_texts: bool = True
    """End a text that is cut with `[EOS]` (published)."""
    length_buckets: tuple[int, ...] = ()
    """Tokens that the rows of a batch may have besides the full length: each batch gets the smallest that holds it, and
    the train step compiles once per size that occurs."""
    interaction_buckets: tuple[int, ...] = ()
    """The same for the interactions of a batch of episodes."""
    packing: PackingConfig | None = None
    """Put several texts in a row."""
    workers: int = 0
    """Processes that make batches (0: threads of this one); neither they nor the number of hosts changes any batch."""
    subword_sampling: float = 0.0
    """Cut the words of training rows into other pieces on every visit, as a function of seed and visit; 0 is off.
    With a `bpe` tokenizer it is the probability that a merge is left out (BPE-dropout; usual: 0.1, and 1 leaves only
    characters). With a `unigram` tokenizer it is SentencePiece's `alpha` over all segmentations: each has its
    probability to that power (usual: 0.1 to 0.5; 1 is the model's own distribution, near 0 any segmentation is as
    likely as the best one). Sampled rows are longer. Held-out rows, evaluation, chat and preference rows are never
    sampled; byte-level tokenizers and prepared folders cannot be."""
    compatibility: DataCompatibility = field(default_factory=DataCompatibility)
    """Published behaviour, off by default."""

    def __post_init__(self) -> None:
        for name in ("max_length", "text_length", "conversation_length"):
            if getattr(self, name) < 4:
                raise ValueError(f"{name} must be at least 4 tokens, got {getattr(self, name)}.")
        for name in ("max_interactions", "sort_pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 < self.mask_probability < 1.0:
            raise ValueError(f"mask_probability must lie in (0, 1), got {self.mask_probability}. Usual: 0.15.")
        if not self.value_weight > 0.0:
            raise ValueError(
                f"value_weight must be positive, got {self.value_weight}. Use 1 to weigh all tokens alike."
            )
        if not 0.0 <= self.subword_sampling <= 1.0:
            raise ValueError(
                f"subword_sampling must lie in [0, 1], got {self.subword_sampling}. Usual: 0.1, or 0 for no sampling."
            )
        for name, least in (("length_buckets", 8), ("interaction_buckets", 1)):
            sizes = getattr(self, name)
            if list(sizes) != sorted(set(sizes)) or any(size < least for size in sizes):
                raise ValueError(f"{name} must rise and start at {least} or more, got {sizes}.")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}. Use 0 for none.")

    def within(self, data: "DataConfig") -> "DataConfig":
        """Return these settings: they are whole, unlike a source, which is read as `data` says."""
        return self

    @property
    def held_out_preferences(self) -> DataSource | None:
        """Return the source of held-out preference episodes, None where there is none."""
        return self.preference_evaluation_source or self.evaluation_source.with_preferences()


BATCH_FIELDS = frozenset(
    {
        "source",
        "evaluation_source",
        "preference_evaluation_source",
        "max_interactions",
        "conversation_length",
        "one_eos_per_conversation",
        "packed_documents_see_each_other",
        "mask_probability",
        "sort_pool",
        "length_buckets",
        "interaction_buckets",
        "packing",
        "workers",
        "subword_sampling",
        "value_weight",
    }
)
"""Fields of `DataConfig` and of its `compatibility` that say how rows are put together, or how training samples them,
which prepared rows never are; all the others decide what a row looks like."""


def changed_settings(old: dict[str, Any], new: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of the settings, as JSON, that changed since they were stored.

    One that only the old or only the new version knows is no change.
    """
    for name in sorted(old.keys() & new.keys()):
        before, now = old[name], new[name]
        if isinstance(before, dict) and isinstance(now, dict):
            yield from changed_settings(before, now, f"{place}{name}.")
        elif before != now:
            yield f"{place}{name}", before, now
