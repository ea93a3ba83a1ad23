"""Where episodes come from: the embedded generator or a file, behind one face."""

from typing import Any, Protocol

from rxt_jax.data.config import DialogueData, FileData
from rxt_jax.data.dialogues import Dialogues
from rxt_jax.data.records import read_episodes

__all__ = ["EpisodeSource", "FileEpisodes", "open_source"]


class EpisodeSource(Protocol):
    """Episodes and texts by number; `size` None = without end."""

    @property
    def size(self) -> int | None: ...

    def episode(self, index: int) -> dict[str, Any]: ...

    def text(self, index: int) -> str: ...


class GeneratedEpisodes:
    """The embedded dialogues as a source."""

    size: int | None = None

    def __init__(self, data: DialogueData):
        self.dialogues = Dialogues(data.spec, data.seed, data.split)

    def episode(self, index: int) -> dict[str, Any]:
        return self.dialogues.episode(index)

    def text(self, index: int) -> str:
        return self.dialogues.text(index)


class FileEpisodes:
    """Episodes of a jsonl file, all of them checked when it is opened."""

    def __init__(self, path: str):
        self.episodes = read_episodes(path)
        self.size: int | None = len(self.episodes)

    def episode(self, index: int) -> dict[str, Any]:
        return self.episodes[index]

    def text(self, index: int) -> str:
        """Join two neighbouring interactions of an episode to plain text; they wander with the epoch."""
        round_, index = divmod(index, len(self.episodes))
        interactions = self.episodes[index]["interactions"]
        start = (2 * round_) % max(len(interactions) - 1, 1)
        return " ".join(
            interaction[part]
            for interaction in interactions[start : start + 2]
            for part in ("internal", "tool_use", "query", "think", "answer", "tool_call")
            if interaction.get(part)
        )


def open_source(data: DialogueData | FileData) -> EpisodeSource:
    """Open a source; a file that cannot be used raises here, with its line."""
    if isinstance(data, FileData):
        return FileEpisodes(data.path)
    return GeneratedEpisodes(data)
