"""`rxt data prepare`: tokenise files once, for runs that read them many times."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rxt_jax.cli.options import parse
from rxt_jax.data.config import DataConfig, FaultPolicy, FileData, RecordKind
from rxt_jax.data.preparing import prepare
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.tokenizer import load_tokenizer
from rxt_jax.recipe import load_recipe
from rxt_jax.shipped import named_folder

__all__ = ["PrepareOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Tokenise files into a folder that is read like any other data (`--data.source.path FOLDER`).

    The folder fits runs with the same tokenizer and the same row settings; others refuse it and say what differs.
    """

    path: Annotated[str, tyro.conf.Positional]
    """A file, folder or glob of records, or hub:NAME."""
    folder: Annotated[str, tyro.conf.Positional]
    """Where to write; a new folder."""
    tokenizer: str
    """Folder of a tokenizer, of a run, or of a prepared folder."""
    recipe: str | None = None
    """A config file whose data settings to use instead of `--config`."""
    config: DataConfig = field(default_factory=DataConfig)
    """Row settings: the lengths, template and over-long policy of the runs that will read the folder."""
    kind: RecordKind = "episode"
    """What a record is."""
    fields: dict[str, str] = field(default_factory=dict)
    """Our names of fields and those of the files."""
    faults: FaultPolicy = field(default_factory=FaultPolicy)
    """What happens to bad records; a quarantine file lies in the folder unless this names one."""
    workers: int = 0
    """Processes that tokenise; 0 = this one."""
    json: bool = False
    """Print the manifest as JSON."""


def run(arguments: Sequence[str]) -> int:
    """Prepare and report."""
    options = parse(PrepareOptions, arguments, "rxt data prepare")
    config = options.config if options.recipe is None else load_recipe(options.recipe).data
    data = FileData(path=options.path, kind=options.kind, fields=options.fields, faults=options.faults)
    encoder = RowEncoder(load_tokenizer(named_folder(options.tokenizer)), config)
    began = time.perf_counter()
    manifest = prepare(data, encoder, options.folder, workers=options.workers)
    seconds = time.perf_counter() - began
    if options.json:
        print(json.dumps(manifest, indent=1, ensure_ascii=False))
        return 0
    size = sum(file.stat().st_size for file in Path(options.folder).iterdir())
    read = manifest["read"]
    quarantined = sum(read["quarantined"].values())
    print(f"{read['read']} records read = {read['used']} used + {quarantined} quarantined")
    print(encoder.report.summary())
    for name in ("episodes", "texts"):
        lengths = ", ".join(f"{share} ≤ {length}" for share, length in manifest[name]["lengths"].items())
        print(f"{name}: {manifest[name]['rows']} rows, {manifest[name]['tokens']} tokens; tokens of a row: {lengths}")
    print(f"written: {options.folder}, {size / 1e6:.1f} MB in {seconds:.1f} s")
    return 0
