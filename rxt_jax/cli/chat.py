"""`rxt chat RUN`: a conversation in the terminal, or one line of standard input per turn."""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, get_args

import tyro
from rich.console import Console
from rich.table import Table

from rxt_jax.cli.options import parse
from rxt_jax.cli.train import open_session
from rxt_jax.run_folder import load
from rxt_jax.serving import ChatSession, HistorySession, SamplingConfig
from rxt_jax.serving.interaction import ThinkingMode

__all__ = ["ChatOptions", "run"]

_HELP = """  /memory        what the last interaction changed, by layer and slot
  /reset         forget everything
  /save FILE     write the memory         /load FILE     take it back
  /think MODE    fast, extended or auto   /tool TEXT     give a tool's result
  /help          this                     /quit          leave"""
_LEVELS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk to a trained model; it remembers through its memory alone."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    mode: ThinkingMode = "fast"
    """Answer at once, think first, or let the model choose."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0


def run(arguments: Sequence[str]) -> int:
    """Chat until the input ends."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(ChatOptions, arguments, "rxt chat")
    loaded = load(options.run)
    session = open_session(loaded, sampling=options.sampling, mode=options.mode, seed=options.seed)
    console = Console(highlight=False)
    if sys.stdin.isatty():
        console.print(f"{_HELP}\n")
    for line in _lines(console):
        if line in ("/quit", "/exit"):
            break
        try:
            _turn(session, line, console)
        except (ValueError, OSError) as error:
            console.print(str(error), style="red", markup=False)
    return 0


def _lines(console: Console) -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    while True:
        try:
            line = console.input("[bold]you    [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line:
            yield line


def _turn(session: ChatSession | HistorySession, line: str, console: Console) -> None:
    command, _, argument = line.partition(" ")
    argument = argument.strip()
    if not line.startswith("/"):
        _reply(session, console, query=line)
    elif command == "/tool" and argument:
        _reply(session, console, tool_result=argument)
    elif command == "/reset":
        session.reset()
        console.print("the model has forgotten everything")
    elif command == "/think" and argument in get_args(ThinkingMode):
        session.mode = argument  # type: ignore[assignment]
        console.print(f"thinking: {argument}")
    elif isinstance(session, HistorySession) and command in ("/memory", "/save", "/load"):
        console.print("this model has no memory: it reads the whole conversation again")
    elif isinstance(session, HistorySession):
        console.print(_HELP)
    elif command == "/memory":
        console.print(memory_table(session))
    elif command == "/save" and argument:
        session.export_memory(argument)
        console.print(f"memory written to {argument}", markup=False, soft_wrap=True)
    elif command == "/load" and argument:
        session.import_memory(argument)
        console.print(f"memory taken from {argument}", markup=False, soft_wrap=True)
    else:
        console.print(_HELP)


def _reply(
    session: ChatSession | HistorySession, console: Console, query: str | None = None, *, tool_result: str | None = None
) -> None:
    console.print("[bold]model [/bold]", end="")
    block, styles = "answer", {"think": "dim italic", "tool_call": "cyan", "answer": ""}
    for chunk in session.send(query, tool_result=tool_result):
        if chunk.block != block:
            console.print(f" [{chunk.block}]" if chunk.block != "answer" else "", end=" ", markup=False)
            block = chunk.block
        console.print(str(chunk), end="", style=styles[block], markup=False, soft_wrap=True)
    console.print()


def memory_table(session: ChatSession) -> Table:
    """Show per layer how much every slot changed in the last interaction, relative to the largest change."""
    level, change, *_ = session.memory_change()
    table = Table(title="memory: change of every slot in the last interaction")
    for name in ("layer", "level (rms)", "change (rms)", "slots"):
        table.add_column(name)
    largest = max(float(change.max()), 1e-9)
    for layer, row in enumerate(change):
        strip = "".join(_LEVELS[round(float(value) / largest * (len(_LEVELS) - 1))] for value in row)
        table.add_row(str(layer), f"{level[layer].mean():.3f}", f"{row.mean():.3f}", strip)
    return table
