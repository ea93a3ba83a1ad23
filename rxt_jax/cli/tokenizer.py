"""`rxt tokenizer train | inspect`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from rxt_jax.cli.options import parse
from rxt_jax.data.config import DialogueData, FileData, RecordKind
from rxt_jax.data.records import record_texts
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer import load_tokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.shipped import named_folder

__all__ = ["InspectTokenizerOptions", "TrainTokenizerOptions", "run"]

_USAGE = "usage: rxt tokenizer train FOLDER | rxt tokenizer inspect FOLDER TEXT (each with --help)"


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerOptions:
    """Train a tokenizer on every text of a file, or on `config.texts` texts of the embedded dialogues."""

    folder: Annotated[str, tyro.conf.Positional]
    """Where `tokenizer.model` (or, for the kind `byte_level`, `tokenizer.json`) is written."""
    data: str | None = None
    """A file of records, see docs/data.md; a file ending in .txt has one text per line."""
    kind: RecordKind = "episode"
    """What a record of the file is."""
    config: TokenizerConfig = field(default_factory=TokenizerConfig)


@dataclass(frozen=True, kw_only=True)
class InspectTokenizerOptions:
    """Show the pieces of a text."""

    folder: Annotated[str, tyro.conf.Positional]
    """Folder of a tokenizer or of a run."""
    text: Annotated[str, tyro.conf.Positional]
    """What to tokenise."""


def run(arguments: Sequence[str]) -> int:
    """Dispatch."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "train":
        options = parse(TrainTokenizerOptions, arguments[1:], "rxt tokenizer train")
        tokenizer = train_tokenizer(_texts(options), options.config, options.folder)
        print(f"written: {options.folder}, {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint[:12]}")
        return 0
    if arguments[0] == "inspect":
        options = parse(InspectTokenizerOptions, arguments[1:], "rxt tokenizer inspect")
        tokenizer = load_tokenizer(named_folder(options.folder))
        for identity in tokenizer.encode(options.text):
            print(f"{identity:6} {tokenizer.token_bytes[identity]!r}")
        return 0
    print(f"rxt tokenizer: unknown action {arguments[0]!r}. {_USAGE}", file=sys.stderr)
    return 2


def _texts(options: TrainTokenizerOptions) -> Iterator[str]:
    if options.data is None:
        source = open_source(DialogueData())
        yield from (source.text(number) for number in range(options.config.texts))
        return
    kind: RecordKind = "text" if options.data.endswith(".txt") else options.kind
    source = open_source(FileData(path=options.data, kind=kind))
    for number in range(source.size or 0):
        yield from record_texts(source.episode(number))
