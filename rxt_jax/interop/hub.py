"""Checkpoints on the Hugging Face Hub, named `hf://owner/name`. Needs the extra `hub` and a network."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["HUB_PREFIX", "download", "is_hub", "uploaded"]

HUB_PREFIX = "hf://"


def is_hub(place: str) -> bool:
    """Tell a repository of the Hub from a folder."""
    return place.startswith(HUB_PREFIX)


def download(place: str) -> Path:
    """Fetch a repository's checkpoint into the Hub's cache; return its folder."""
    repository = _repository(place)
    wanted = ["*.json", "*.safetensors", "*.model", "stages/*"]  # a checkpoint, or a run
    return Path(_hub().snapshot_download(repository, allow_patterns=wanted))


@contextmanager
def uploaded(place: str) -> Iterator[Path]:
    """Give an empty folder; what has been written there goes to a repository of the Hub, private where it is new."""
    repository, hub = _repository(place), _hub()
    with tempfile.TemporaryDirectory(prefix="rxt_hub_") as folder:
        yield Path(folder)
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder)


def _repository(place: str) -> str:
    repository = place.removeprefix(HUB_PREFIX)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"{place}: expected {HUB_PREFIX}owner/name")
    return repository


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("the Hub needs an extra: pip install 'rxt-jax[hub]'") from None
    return huggingface_hub
