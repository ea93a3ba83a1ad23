"""`rxt inspect-memory RUN conversation.jsonl [-o report.html]`: what memory does in a conversation, as one page."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from rxt_jax.cli.options import parse
from rxt_jax.inspection import EXPERIMENTS
from rxt_jax.paths import as_path, check_place_for_file
from rxt_jax.run_inspection import trace_memory

__all__ = ["InspectMemoryOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class InspectMemoryOptions:
    """Show what was written where, what answers read, and what they lose without a slot: a page without network."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or `companion`: the model that comes with the package."""
    conversation: Annotated[str, tyro.conf.Positional]
    """A jsonl file of episodes. The first one is traced; where an interaction has no answer the model gives one. The
    second one, if there is one, is the conversation whose memory is swapped in."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "memory.html"
    """The page."""
    experiments: tuple[Literal["erase", "freeze", "swap"], ...] = EXPERIMENTS
    """What is done to every slot and layer; each answer is scored once for each of them."""


def run(arguments: Sequence[str]) -> int:
    """Trace a conversation and write the page."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(InspectMemoryOptions, arguments, "rxt inspect-memory")
    check_place_for_file(options.output)
    trace = trace_memory(options.run, options.conversation, experiments=options.experiments)
    as_path(options.output).write_text(trace.html(), encoding="utf-8")
    print(f"written: {options.output}")
    return 0
