"""What episodes of question sets have in common: something is told, a question asks for it, both are interactions."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rxt_jax.paths import as_path, files_below, files_matching, is_remote

__all__ = ["ABSENT_ANSWER", "files_of", "question", "told"]

ABSENT_ANSWER = "That was not mentioned."
"""The true answer to a question about what nobody said, where the file has none."""


def told(text: str) -> dict[str, Any]:
    """Make the interaction of a statement: nothing was asked, so the answer notes it, word by word.

    A model may have learnt to remember what it says rather than what it hears: the companion keeps nothing of a
    statement that is answered by a mere "Okay."
    """
    return {"query": text, "answer": f"Noted: {text}", "intent": "state"}


def question(text: str, answer: str, values: Sequence[str], *, turn: int, source: int, kind: str) -> dict[str, Any]:
    """Make the interaction of a question.

    values: what an answer has to hold; empty where nothing was said that answers it.
    turn, source: numbers of this interaction and of the earliest one that the answer needs.
    kind: the kind of question, within which a guess may be right.
    """
    if not values:
        return {"query": text, "answer": answer, "intent": "absence"}
    recall = [{"slot": kind, "type": kind, "value": value, "distance": turn - source} for value in values]
    return {"query": text, "answer": answer, "intent": "recall", "recall": recall}


def files_of(path: str, prefix: str, ending: str) -> list[Path]:
    """List the files that `PREFIX:FILE`, `PREFIX:FOLDER` or `PREFIX:GLOB` means, by name."""
    place = path.removeprefix(prefix)
    path_of_place = as_path(place)
    if path_of_place.is_file():
        return [path_of_place]
    is_folder = path_of_place.is_dir()
    if is_folder and is_remote(place):
        found = [file for file in files_below(path_of_place) if file.name.endswith(ending)]
    else:
        found = files_matching(f"{glob.escape(place)}/**/*{ending}" if is_folder else place)
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise FileNotFoundError(
            f"{path}: {place or 'nothing'} is no file, no folder with {ending} files, and matches none; expected "
            f"{prefix}FILE, {prefix}FOLDER or {prefix}GLOB"
        )
    return files
