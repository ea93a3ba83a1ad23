"""`rxt data generate | inspect | prepare`: what records look like, and what a model sees of them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from rxt_jax.cli import prepare
from rxt_jax.cli.inspect_data import InspectDataOptions, inspect_data
from rxt_jax.cli.options import parse
from rxt_jax.data.config import DialogueData
from rxt_jax.data.sources import open_source
from rxt_jax.paths import as_path

__all__ = ["GenerateOptions", "run"]

_USAGE = "usage: rxt data generate FOLDER | rxt data inspect [FILE] | rxt data prepare DATA FOLDER (each with --help)"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Write embedded dialogues as records: `episodes.jsonl` (history reading, stages 3 and 4, evaluation),
    `interactions.jsonl` (stage 2) and `text.txt` (stage 1)."""

    folder: Annotated[str, tyro.conf.Positional]
    """Where to write."""
    episodes: int = 1000
    """How many episodes."""
    data: DialogueData = field(default_factory=DialogueData)
    """Which dialogues."""


def run(arguments: Sequence[str]) -> int:
    """Dispatch."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "generate":
        return _generate(parse(GenerateOptions, arguments[1:], "rxt data generate"))
    if arguments[0] == "inspect":
        return inspect_data(parse(InspectDataOptions, arguments[1:], "rxt data inspect", default=InspectDataOptions()))
    if arguments[0] == "prepare":
        return prepare.run(arguments[1:])
    print(f"rxt data: unknown action {arguments[0]!r}. {_USAGE}", file=sys.stderr)
    return 2


def _generate(options: GenerateOptions) -> int:
    source, folder = open_source(options.data), as_path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("episodes.jsonl", "interactions.jsonl", "text.txt")]
    with paths[0].open("w") as episodes, paths[1].open("w") as interactions, paths[2].open("w") as text:
        for number in range(options.episodes):
            episode = source.episode(number)
            episodes.write(json.dumps(episode) + "\n")
            interactions.writelines(json.dumps(each) + "\n" for each in episode["interactions"])
            text.write(source.text(number) + "\n")
    print("\n".join(f"written: {path}" for path in paths))
    return 0
