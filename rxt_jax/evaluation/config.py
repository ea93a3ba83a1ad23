"""What to measure."""

from dataclasses import dataclass, field, replace

from rxt_jax.data.dialogues.spec import SPLITS
from rxt_jax.sharding import MeshConfig

__all__ = ["CONDITIONS", "EvaluationConfig"]

CONDITIONS = ("memory", "zeroed", "shuffled", "frozen")
"""Memory as it is; all zeros; that of another conversation at the same turn; as it was after the first
interaction (it knows what was said there, however often that was repeated since)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is measured, under which conditions, and how it is computed. Source: docs/method.md §18."""

    episodes: int = 128
    """Held-out conversations of every split, in whole batches: of 100 in batches of 64 the first 64 count. The split
    `longest`, whose conversations are ten times as long, has an eighth of them."""
    batch_size: int = 64
    """Conversations of a batch; `shuffled` memory is that of the neighbour in it."""
    max_new_tokens: int = 24
    """Tokens that a generated answer may have."""
    splits: tuple[str, ...] = SPLITS[1:]
    """Splits of the embedded dialogues; a file is one split of its own."""
    conditions: tuple[str, ...] = CONDITIONS
    """What memory the answers read."""
    seed: int = 1
    """What the embedded dialogues are drawn from."""
    tokens_per_call: int = 4096
    """Tokens that go through a part of the model together on one device: as many rows of a batch as hold about that
    many. The memory that an evaluation takes grows with it, its results do not depend on it."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices that share the work: conversations are split over `data` × `fsdp`. The default is one device."""

    def __post_init__(self) -> None:
        for name in ("episodes", "batch_size", "max_new_tokens", "tokens_per_call"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, known in (("splits", SPLITS), ("conditions", CONDITIONS)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(unknown)}.")
        if not self.conditions:
            raise ValueError(f"conditions must name one of {', '.join(CONDITIONS)} or more, got none.")

    def of(self, split: str) -> "EvaluationConfig":
        """Return what holds for a split."""
        if split != "longest":
            return self
        return replace(self, episodes=max(self.episodes // 8, 2), batch_size=max(self.batch_size // 8, 2))
