"""Which data a run reads, and how long its rows are."""

from dataclasses import dataclass, field, replace
from typing import Literal

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
]

RecordKind = Literal["episode", "interaction", "text", "conversation", "preference_episode", "preference_pair"]
"""What a record of a file is, see `docs/data.md`; `conversation` has chat messages or is an episode."""

Overlong = Literal["drop_record", "cut_input_first", "right", "longest_first", "error"]
"""What happens to an interaction of more than `max_length` tokens; all are counted by reason.

`drop_record` cuts it on the right and drops it if no target is left: it becomes filler. `cut_input_first` takes tokens
of its instruction, then of its question away, on the left, and only then of its answer, on the right. `right` cuts on
the right and keeps it even without a target (published). `longest_first` shortens the longer one of question and answer
(published for plain pairs). `error` stops the run."""


@dataclass(frozen=True, kw_only=True)
class DialogueData:
    """Conversations made on the fly, without end; `seed` 0 is what the README's figures use.

    With `preferences` every answer that recalls something also has a rejected form, which names another value.
    """

    spec: DialogueSpec = field(default_factory=tiny)
    seed: int = 0
    split: str = "train"
    preferences: bool = False


@dataclass(frozen=True, kw_only=True)
class FaultPolicy:
    """What happens to bad records. `strict` stops at the first one. `tolerant` writes each with its reason to the file
    `quarantine` (None = `quarantine/` of the run folder) and fails if more than `max_rate` of all records are bad. The
    file is written anew whenever the source is opened, so every source needs one of its own."""

    mode: Literal["strict", "tolerant"] = "strict"
    max_rate: float = 0.05
    quarantine: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_rate <= 1.0:
            raise ValueError(f"max_rate must lie in [0, 1], got {self.max_rate}. It is a share of the records.")


@dataclass(frozen=True, kw_only=True)
class FileData:
    """Records of files: a file, a folder, a glob, `hub:NAME` or `sgd:FOLDER:SPLIT` (`rxt_jax.data.readers`), or a
    prepared folder.

    `kind` says what a record is, see `docs/data.md`; `fields` maps our names of fields to those of the file.
    """

    path: str
    kind: RecordKind = "episode"
    fields: dict[str, str] = field(default_factory=dict)
    faults: FaultPolicy = field(default_factory=FaultPolicy)


@dataclass(frozen=True, kw_only=True)
class PartData:
    """The last (or first) `share` of a file's records, or with `rest` all the others: data to hold out and to keep."""

    source: FileData
    share: float = 0.1
    from_start: bool = False
    rest: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share must lie in (0, 1), got {self.share}. Usual: 0.1.")


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """Several sources, each with its weight: the share of the records that it gives (they need not add up to 1)."""

    sources: tuple[DialogueData | FileData | PartData, ...]
    weights: tuple[float, ...]

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

    `buffer` records are packed at once, those of fewer than `shortest` tokens (control tokens count) are dropped
    and counted. Documents do not see each other. `published` is the reference's way: they do, with one more
    `[EOS]` between them, and what does not fill a batch is dropped. Source: supervised spec §3.4.
    """

    buffer: int = 8192
    shortest: int = 32
    published: bool = False

    def __post_init__(self) -> None:
        if self.buffer < 1 or self.shortest < 1:
            raise ValueError(f"buffer and shortest must be at least 1, got {self.buffer} and {self.shortest}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Rows of a run. `max_length` counts the tokens of one interaction, `text_length` those of a text,
    `conversation_length` those of a whole conversation, which only the stateless baseline reads at once.

    `max_interactions` bounds an episode; longer ones keep their beginning and are counted.
    `sort_pool` batches are drawn together and sorted by their number of interactions, so that a batch
    has few filler interactions: those that are filler in every row cost nothing.

    `template`: `pair` writes query and answer only, as published for plain data. `train_control_tokens` and
    `train_eos` say whether `[T]`, `[A]`, `[C]` and `[EOS]` are targets. `parse_control_tokens_in_text` lets `[A]` in a
    text become a control token, as published. `use_system_prompt` writes an episode's `system` into memory before its
    first interaction. `preference_evaluation_source` holds the preference episodes that a preference stage is
    measured on beside `evaluation_source` (None: those of the embedded dialogues, if the latter are such).
    `end_cut_texts` ends a text that is cut with `[EOS]` (published). `end_every_answer=False` gives
    a conversation in one row a single `[EOS]`, at its end (published: the baseline then never learns to stop).

    `length_buckets` and `interaction_buckets` are the sizes that batches may have besides the full ones: each
    gets the smallest that holds it, and the train step compiles once per size that occurs. `sort_pool` batches
    are then sorted by both, also batches of rows. `packing` puts several texts in a row. `workers` processes
    make batches (0: threads of this one); neither they nor the number of hosts changes any batch.

    `subword_sampling` cuts the words of training rows into other pieces on every visit, as a function of the seed and
    the visit; held-out rows, evaluation, chat and preference rows are never sampled. 0 is off. With a `bpe` tokenizer
    it is the probability that a merge is left out (BPE-dropout; usual: 0.1, and 1 leaves only characters). With a
    `unigram` tokenizer it is SentencePiece's `alpha` over all segmentations: each has its probability to that power
    (usual: 0.1 to 0.5; 1 is the model's own distribution, near 0 any segmentation is as likely as the best one).
    Sampled rows are longer. Byte-level tokenizers and prepared folders cannot be sampled.
    """

    source: DataSource = field(default_factory=DialogueData)
    evaluation_source: DataSource = field(default_factory=lambda: DialogueData(split="iid", seed=1))
    preference_evaluation_source: DataSource | None = None
    max_length: int = 32
    max_interactions: int = 10
    text_length: int = 48
    conversation_length: int = 320
    mask_probability: float = 0.15
    overlong: Overlong = "drop_record"
    sort_pool: int = 1
    template: Literal["interaction", "pair"] = "interaction"
    train_control_tokens: bool = True
    train_eos: bool = True
    parse_control_tokens_in_text: bool = False
    use_system_prompt: bool = False
    end_cut_texts: bool = True
    end_every_answer: bool = True
    length_buckets: tuple[int, ...] = ()
    interaction_buckets: tuple[int, ...] = ()
    packing: PackingConfig | None = None
    workers: int = 0
    subword_sampling: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_length", "text_length", "conversation_length"):
            if getattr(self, name) < 4:
                raise ValueError(f"{name} must be at least 4 tokens, got {getattr(self, name)}.")
        for name in ("max_interactions", "sort_pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 < self.mask_probability < 1.0:
            raise ValueError(f"mask_probability must lie in (0, 1), got {self.mask_probability}. Usual: 0.15.")
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

    @property
    def held_out_preferences(self) -> DataSource | None:
        """Return the source of held-out preference episodes, None where there is none."""
        if self.preference_evaluation_source is None and isinstance(self.evaluation_source, DialogueData):
            return replace(self.evaluation_source, preferences=True)
        return self.preference_evaluation_source


BATCH_FIELDS = frozenset(
    {
        "source",
        "evaluation_source",
        "preference_evaluation_source",
        "max_interactions",
        "conversation_length",
        "end_every_answer",
        "mask_probability",
        "sort_pool",
        "length_buckets",
        "interaction_buckets",
        "packing",
        "workers",
        "subword_sampling",
    }
)
"""Fields of `DataConfig` that say how rows are put together, or how training samples them, which prepared rows never
are; all the others decide what a row looks like."""
