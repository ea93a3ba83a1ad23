"""`rxt report RUN [RUN ...] [-o report.html]`: runs side by side, as one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from rxt_jax.cli.options import parse
from rxt_jax.paths import as_path, check_place_for_file
from rxt_jax.report import read_run, run_page

__all__ = ["ReportOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write what runs were, how they went, what they remember and what they cost, as one page that needs no network."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of runs; of several the differences are shown."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "report.html"
    """The page."""


def run(arguments: Sequence[str]) -> int:
    """Write the page."""
    options = parse(ReportOptions, arguments, "rxt report")
    if not options.runs:
        raise ValueError("name at least one run: rxt report RUN [RUN ...]")
    check_place_for_file(options.output)
    as_path(options.output).write_text(run_page([read_run(each) for each in options.runs]), encoding="utf-8")
    print(f"written: {options.output}")
    return 0
