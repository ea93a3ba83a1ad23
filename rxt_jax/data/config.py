"""Which data a run reads, and how long its rows are."""

from dataclasses import dataclass, field
from typing import Literal

from rxt_jax.data.dialogues.spec import DialogueSpec, tiny

__all__ = ["DataConfig", "DialogueData", "FileData", "Overlong"]

Overlong = Literal["cut_input", "cut_output", "skip", "error"]
"""What happens to an interaction of more than `max_length` tokens: its input loses tokens on the left,
its output on the right (published), the row becomes filler, or the run stops. All are counted."""


@dataclass(frozen=True, kw_only=True)
class DialogueData:
    """Conversations made on the fly, without end; `seed` 0 is what the README's figures use."""

    spec: DialogueSpec = field(default_factory=tiny)
    seed: int = 0
    split: str = "train"


@dataclass(frozen=True, kw_only=True)
class FileData:
    """A jsonl file with one episode per line, see `rxt_jax.data.records`."""

    path: str


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Rows of a run. `max_length` counts the tokens of one interaction, `text_length` those of a text.

    `max_interactions` bounds an episode; longer ones keep their beginning and are counted.
    `sort_pool` batches are drawn together and sorted by their number of interactions, so that a batch
    has few filler interactions: those that are filler in every row cost nothing.
    """

    source: DialogueData | FileData = field(default_factory=DialogueData)
    evaluation_source: DialogueData | FileData = field(default_factory=lambda: DialogueData(split="iid", seed=1))
    max_length: int = 32
    max_interactions: int = 10
    text_length: int = 48
    mask_probability: float = 0.15
    overlong: Overlong = "cut_input"
    sort_pool: int = 1

    def __post_init__(self) -> None:
        for name in ("max_length", "text_length"):
            if getattr(self, name) < 8:
                raise ValueError(f"{name} must be at least 8 tokens, got {getattr(self, name)}.")
        for name in ("max_interactions", "sort_pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 < self.mask_probability < 1.0:
            raise ValueError(f"mask_probability must lie in (0, 1), got {self.mask_probability}. Usual: 0.15.")
