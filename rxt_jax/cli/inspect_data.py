"""`rxt data inspect`: what a file holds, what is cut or dropped, and rows as a model sees them."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from rxt_jax.cli.data_plots import save_plots
from rxt_jax.data.config import DataConfig, DialogueData, FaultPolicy, FileData, RecordKind
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.faults import ReadReport
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.special_tokens import CONTROL_PIECES
from rxt_jax.data.statistics import Example, Statistics, measure
from rxt_jax.data.tokenizer import Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.paths import as_path
from rxt_jax.shipped import named_folder

__all__ = ["InspectDataOptions", "inspect_data"]

_SAMPLE = 500  # records of an endless source that are looked at unless `count` says otherwise
_TOKENIZER_TEXTS = 2000


@dataclass(frozen=True, kw_only=True)
class InspectDataOptions:
    """Count lengths, labels, modes and recall distances of a file, what would be cut or dropped, and what is bad; show
    one row of every mode: targets are green (and end in *), what memory is updated from is underlined."""

    file: Annotated[str | None, tyro.conf.Positional] = None
    """A file of records, see docs/data.md; without it the embedded dialogues."""
    kind: RecordKind = "episode"
    """What a record of the file is."""
    fields: dict[str, str] = field(default_factory=dict)
    """Our names of fields and those of the file: `--fields query question answer reply`."""
    faults: FaultPolicy = field(default_factory=FaultPolicy)
    tokenizer: str | None = None
    """Folder of a tokenizer or of a run; without it one is trained on the data."""
    count: int | None = None
    """How many records to look at; without it all of a file, 500 embedded dialogues."""
    plots: str | None = None
    """A PNG file to draw the distributions into."""
    json: bool = False
    """Print one JSON object instead."""
    config: DataConfig = field(default_factory=DataConfig)
    """How rows are made; `source` and `evaluation-source` are not read here."""


def inspect_data(options: InspectDataOptions) -> int:
    """Walk over the data once and print what was found."""
    data = DialogueData()
    if options.file is not None:
        data = FileData(path=options.file, kind=options.kind, fields=options.fields, faults=options.faults)
    source = open_source(data)
    whole = _SAMPLE if source.size is None else source.size
    count = whole if options.count is None else min(options.count, whole)
    tokenizer = _tokenizer(options, source, count)
    encoder = RowEncoder(tokenizer, options.config)
    found = measure((source.episode(number) for number in range(count)), encoder)
    report = source.report or ReadReport(read=count, used=count)
    if count == report.used:
        for _ in range(found.unusable):
            report.drop("no usable row")
    report.check()
    if options.plots is not None:
        save_plots(found, options.config, as_path(options.plots).with_suffix(".png"))
    if options.json:
        print(json.dumps(_as_json(report, found, encoder)))
        return 0
    _print(Console(), report, found, encoder)
    if options.plots is not None:
        print(f"written: {as_path(options.plots).with_suffix('.png')}")
    return 0


def _as_json(report: ReadReport, found: Statistics, encoder: RowEncoder) -> dict[str, Any]:
    return {"read": report.as_json(), "rows": encoder.report.as_json(), **found.as_json()}


def _print(console: Console, report: ReadReport, found: Statistics, encoder: RowEncoder) -> None:
    console.print("one row of each mode; green and *: a target; underlined: memory is updated from it\n", style="dim")
    for example in found.examples.values():
        console.print(render(example, encoder.tokenizer), soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"\nrecords: {report.summary()}")
    for name, count in report.unknown_fields.items():
        say(f"  field {name!r} is read by nothing ({count} times)")
    say(f"rows:    {encoder.report.summary()}")
    facts = found.as_json()
    say(f"modes:   {', '.join(f'{mode} {count}' for mode, count in facts['modes'].items() if count)}")
    for title, name in (
        ("tokens before cutting", "lengths"),
        ("tokens of used rows", "row_lengths"),
        ("labels per record", "labels_per_record"),
        ("interactions per episode", "interactions_per_episode"),
    ):
        if facts[name]:
            line = "  ".join(f"{share} {value}" for share, value in facts[name].items())
            say(f"{title:25} {line}")
    if facts["recall_distances"]:
        line = "  ".join(f"{distance}: {count}" for distance, count in facts["recall_distances"].items())
        say(f"{'values at recall distance':25} {line}")


def render(example: Example, tokenizer: Tokenizer) -> Text:
    """Write a row token by token: targets green and followed by *, what enters memory underlined."""
    row, labels = example.row, example.row.label_list()
    memory = "all of it enters memory" if example.enters_memory else "nothing enters memory"
    line = Text(f"{example.mode}: {len(row.ids)} tokens, {sum(labels)} targets, {memory}\n  ", style="bold")
    names = {identity: CONTROL_PIECES[name] for identity, name in tokenizer.special.names.items()}
    for identity, target in zip(row.ids, labels, strict=True):
        piece = names.get(identity) or tokenizer.token_bytes[identity].decode(errors="replace").replace(" ", "·")
        style = ["not bold", "green" if target else "default"]
        style += ["bold"] if identity in names else []
        style += ["underline"] if example.enters_memory else []
        line.append(piece.replace("\n", "⏎") + ("*" if target else ""), style=" ".join(style))
        line.append(" ", style="not bold")
    return line


def _tokenizer(options: InspectDataOptions, source: EpisodeSource, count: int) -> Tokenizer:
    if options.tokenizer is not None:
        return load_tokenizer(named_folder(options.tokenizer))
    texts = _TOKENIZER_TEXTS if source.size is None else min(count, _TOKENIZER_TEXTS)
    return train_tokenizer((source.text(number) for number in range(texts)), TokenizerConfig())
