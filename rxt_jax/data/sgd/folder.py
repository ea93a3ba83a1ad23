"""The folder of the published Schema-Guided Dialogue data set: `train`, `dev` and `test` with `dialogues_001.json`, ….

A path `sgd:FOLDER:SPLIT` means the episodes of a split, `sgd:FOLDER:SPLIT:preferences` those of its episodes that
recall something, with chosen and rejected answers. Wrong values come from the training split, whatever the split.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rxt_jax.data.faults import RecordError
from rxt_jax.data.sgd.dialogue import dialogue_to_episode
from rxt_jax.data.sgd.preferences import preference_episode, recalled_values
from rxt_jax.paths import as_path

__all__ = ["SGD_PREFIX", "read_sgd", "sgd_files", "sgd_path"]

SGD_PREFIX = "sgd:"
_PREFERENCES = ":preferences"
_TRAIN = "train"
_SHOWN = 200  # characters of a file that is no JSON, for the quarantine file


def sgd_path(folder: str | Path, split: str, *, preferences: bool = False) -> str:
    """Say where a recipe finds a split: episodes made before (`SPLIT.jsonl`, `preferences_SPLIT.jsonl`) if the folder
    holds them, else the published data set."""
    made = as_path(folder) / f"{'preferences_' if preferences else ''}{split}.jsonl"
    return str(made) if made.is_file() else f"{SGD_PREFIX}{folder}:{split}{_PREFERENCES if preferences else ''}"


def sgd_files(path: str) -> list[Path]:
    """List the files that decide what a path gives; data that are missing are an error that says where they are."""
    folder, split, preferences = _parts(path)
    training = _split_files(folder, _TRAIN) if preferences and split != _TRAIN else []
    return training + _split_files(folder, split)


def read_sgd(path: str) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    """Yield the place and the episode of every dialogue, or what is wrong with it."""
    folder, split, preferences = _parts(path)
    if not preferences:
        yield from _read_split(folder, split)
        return
    read = list(_read_split(folder, split))
    # A bad dialogue of the training split is a fault of whoever reads that split; here it only gives no values.
    training = read if split == _TRAIN else _read_split(folder, _TRAIN)
    values = recalled_values(episode for _, episode in training if not isinstance(episode, RecordError))
    for place, found in read:
        if isinstance(found, RecordError):
            yield place, found
            continue
        episode = preference_episode(found, values)
        if any(interaction["rejected"] for interaction in episode["interactions"]):
            yield place, episode


def _parts(path: str) -> tuple[Path, str, bool]:
    rest = path.removeprefix(SGD_PREFIX)
    folder, _, split = rest.removesuffix(_PREFERENCES).rpartition(":")
    if not folder or not split:
        example = f"{SGD_PREFIX}dstc8-schema-guided-dialogue:train"
        raise ValueError(f"{path!r}: expected {SGD_PREFIX}FOLDER:SPLIT[{_PREFERENCES}], for example {example}")
    return as_path(folder), split, rest.endswith(_PREFERENCES)


def _split_files(folder: Path, split: str) -> list[Path]:
    files = sorted((folder / split).glob("dialogues_*.json"))
    if not files:
        raise FileNotFoundError(
            f"no Schema-Guided Dialogue data in {folder / split}: expected dialogues_001.json and so on. The data set "
            f"is free (CC BY-SA 4.0): clone google-research-datasets/dstc8-schema-guided-dialogue from GitHub, and "
            f"name its folder with RXT_SGD_FOLDER=FOLDER (recipes in configs/sgd) or as {SGD_PREFIX}FOLDER:{split}"
        )
    return files


def _read_split(folder: Path, split: str) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    for file in _split_files(folder, split):
        try:
            dialogues = _load(file)
        except RecordError as error:
            yield str(file), error
            continue
        for number, dialogue in enumerate(dialogues):
            try:
                episode = dialogue_to_episode(dialogue, str(file), number)
            except RecordError as error:
                error.raw = dialogue
                yield error.place, error
            else:
                yield f"{file}, dialogue {episode['id']}", episode


def _load(file: Path) -> list[Any]:
    content = file.read_bytes()
    shown = content[:_SHOWN].decode("utf-8", errors="backslashreplace")
    try:
        dialogues = json.loads(content)
    except json.JSONDecodeError as error:
        place = f"{file}, line {error.lineno}, column {error.colno}"
        message = f"not valid JSON ({error.msg}); expected a list of dialogues"
        raise RecordError(place, message, "not_json", raw=shown) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise RecordError(str(file), f"not valid JSON ({error})", "not_json", raw=shown) from None
    if not isinstance(dialogues, list):
        message = f"expected a list of dialogues, got {type(dialogues).__name__}"
        raise RecordError(str(file), message, "wrong_type", raw=shown)
    return dialogues
