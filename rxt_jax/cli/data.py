"""`rxt data generate | inspect`: what records look like, and what a model sees of them."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from rxt_jax.cli.options import parse
from rxt_jax.data.config import DataConfig, DialogueData, FileData
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import EpisodeSource, open_source
from rxt_jax.data.special_tokens import CONTROL_PIECES
from rxt_jax.data.tokenizer import Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer

__all__ = ["GenerateOptions", "InspectDataOptions", "run"]

_USAGE = "usage: rxt data generate FOLDER | rxt data inspect [--data FILE] (each with --help)"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Write embedded dialogues as records: `episodes.jsonl` (history reading, stages 3 and 4, evaluation),
    `interactions.jsonl` (stage 2) and `text.txt` (stage 1)."""

    folder: Annotated[str, tyro.conf.Positional]
    """Where to write."""
    episodes: int = 1000
    data: DialogueData = field(default_factory=DialogueData)


@dataclass(frozen=True, kw_only=True)
class InspectDataOptions:
    """Print rows as a model sees them; targets are green, the rest of a row is not trained."""

    data: str | None = None
    """A jsonl file of episodes; without it the embedded dialogues."""
    tokenizer: str | None = None
    """Folder of a tokenizer; without it one is trained on the data."""
    rows: int = 8
    """How many rows to print."""
    count: int = 500
    """How many episodes to count the lengths of."""
    config: DataConfig = field(default_factory=DataConfig)


def run(arguments: Sequence[str]) -> int:
    """Dispatch."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "generate":
        return _generate(parse(GenerateOptions, arguments[1:], "rxt data generate"))
    if arguments[0] == "inspect":
        return _inspect(parse(InspectDataOptions, arguments[1:], "rxt data inspect"))
    print(f"rxt data: unknown action {arguments[0]!r}. {_USAGE}", file=sys.stderr)
    return 2


def _generate(options: GenerateOptions) -> int:
    source, folder = open_source(options.data), Path(options.folder)
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


def _inspect(options: InspectDataOptions) -> int:
    source = open_source(DialogueData() if options.data is None else FileData(path=options.data))
    tokenizer = _tokenizer(options, source)
    encoder = RowEncoder(tokenizer, options.config)
    console = Console()
    count = options.count if source.size is None else min(options.count, source.size)
    rows = [row for number in range(count) for row in encoder.episode(source.episode(number))]
    pieces = list(CONTROL_PIECES.values())
    for row in itertools.islice(rows, options.rows):
        line = Text(f"{len(row.ids):4} ")
        for place, identity in enumerate(row.ids):
            piece = (
                pieces[identity] if identity < len(pieces) else tokenizer.token_bytes[identity].decode(errors="replace")
            )
            line.append(piece.replace(" ", "·"), style="green" if place >= row.prompt_length else "")
            line.append("|", style="dim")
        console.print(line)
    lengths = sorted(len(row.ids) for row in rows)
    shares = {share: lengths[int(share * (len(lengths) - 1))] for share in (0.5, 0.9, 0.99, 1.0)}
    console.print(f"{count} episodes: {encoder.report.summary()}")
    console.print("tokens of a row: " + ", ".join(f"{100 * share:g} % ≤ {length}" for share, length in shares.items()))
    return 0


def _tokenizer(options: InspectDataOptions, source: EpisodeSource) -> Tokenizer:
    if options.tokenizer is not None:
        return load_tokenizer(options.tokenizer)
    return train_tokenizer((source.text(number) for number in range(2000)), TokenizerConfig())
