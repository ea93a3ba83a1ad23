"""Stories in the format of the bAbI tasks: numbered lines, of which some are questions with their answer.

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary?<tab>bathroom<tab>1

A line with number 1 begins a story, which is an episode. Every line is an interaction. The last field names the lines
that the answer needs; the distance of the question is that to the earliest of them, because all have to be remembered,
and where none is named that to the first line. An answer such as `football,apple` holds several values.
Source: Weston et al. 2015, "Towards AI-Complete Question Answering" (arXiv:1502.05698), and the files' README.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rxt_jax.data.faults import RecordError
from rxt_jax.data.question_sets.telling import files_of, question, told

__all__ = ["BABI_PREFIX", "babi_files", "read_babi"]

BABI_PREFIX = "babi:"

_LINE = re.compile(r"(\d+) +(\S.*)")


def babi_files(path: str) -> list[Path]:
    """List the files of `babi:FILE`, `babi:FOLDER` (its .txt files) or `babi:GLOB`."""
    return files_of(path, BABI_PREFIX, ".txt")


def read_babi(path: str) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    """Yield the place and the episode of every story, or what is wrong with it."""
    for file in babi_files(path):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            message = f"byte {error.start} is not valid UTF-8; save the file as UTF-8"
            yield str(file), RecordError(str(file), message, "invalid_utf8")
            continue
        for number, (first, story) in enumerate(_stories(lines)):
            place = f"{file}, line {first}"
            try:
                yield place, _episode(story, first, str(file), f"{file.stem}-{number}", file.stem)
            except RecordError as error:
                error.raw = "\n".join(story)
                yield error.place, error


def _stories(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield every story with the number of its first line in the file; empty lines belong to none."""
    story: list[str] = []
    first = 0
    for number, line in enumerate(lines, 1):
        if story and re.match(r"1\s", line):
            yield first, story
            story = []
        if story or line.strip():
            first = first if story else number
            story.append(line)
    if story:
        yield first, story


def _episode(story: list[str], first: int, file: str, identity: str, kind: str) -> dict[str, Any]:
    interactions: list[dict[str, Any]] = []
    turns: dict[int, int] = {}  # number of a line in the story → its interaction
    for line_number, line in enumerate(story, first):
        if not line.strip():
            continue
        place, found = f"{file}, line {line_number}", _LINE.fullmatch(line.rstrip())
        if found is None:
            message = "expected a number, a space and a text, such as '1 Mary moved to the bathroom.'"
            raise RecordError(place, message, "wrong_format")
        number, turn = int(found[1]), len(interactions)
        if number in turns or (not turns and number != 1):
            message = f"line numbers of a story count up from 1, got {number}"
            raise RecordError(place, message, "wrong_number")
        text, *answered = found[2].split("\t")
        interactions.append(_asked(text, answered, turns, turn, place, kind) if answered else told(text.strip()))
        turns[number] = turn
    return {"id": identity, "interactions": interactions}


def _asked(text: str, answered: list[str], turns: dict[int, int], turn: int, place: str, kind: str) -> dict[str, Any]:
    values = [value for part in answered[0].split(",") if (value := part.strip())]
    if not values:
        raise RecordError(place, "the question has no answer between its tabs", "missing_field", "answer")
    if not turn:
        raise RecordError(place, "the story begins with a question, so nothing was told that answers it", "no_story")
    named = answered[1].split() if len(answered) > 1 else []
    wrong = [each for each in named if not each.isdigit() or int(each) not in turns]
    if wrong:
        message = f"the answer needs line {wrong[0]!r}, which does not stand before it in its story"
        raise RecordError(place, message, "unknown_line", "supporting facts")
    source = min((turns[int(each)] for each in named), default=0)
    return question(text.strip(), ", ".join(values), values, turn=turn, source=source, kind=kind)
