"""`rxt chat RUN`: a conversation in the terminal, or one line of standard input per turn; RUN may be a server."""

import contextlib
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from rxt_jax.cli.chat_commands import LEAVING, MEANT, Session, hint, obey, split_command
from rxt_jax.cli.chat_text import USER, Reply, laid_out, printable
from rxt_jax.cli.facts import SURE
from rxt_jax.cli.options import parse
from rxt_jax.cli.remote_session import RemoteSession, is_address
from rxt_jax.data.template import ThinkingMode
from rxt_jax.model import SamplingConfig
from rxt_jax.run_session import open_session
from rxt_jax.serving import ChatSession

__all__ = ["ChatOptions", "run"]

_STYLES = {"think": "dim italic", "tool_call": "cyan", "answer": ""}


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk to a trained model; it remembers through its memory alone.

    In a pipe every line of standard input is a turn, and a transcript is printed.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or `companion`: the model that comes with the package; or the address of `rxt serve`."""
    mode: ThinkingMode = "fast"
    """Answer at once, think first, or let the model choose."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How tokens are chosen; greedy unless told otherwise."""
    seed: int = 0
    """What sampled replies are drawn from."""


def run(arguments: Sequence[str]) -> int:
    """Chat until the input ends."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = parse(ChatOptions, arguments, "rxt chat")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # What a terminal cannot show, or what is no text, is no reason to end a conversation.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    session = _open(options)
    chat = _Terminal() if sys.stdin.isatty() else _Pipe()
    with ThreadPoolExecutor(1) as thread:
        ready = thread.submit(session.prepare) if isinstance(session, ChatSession) else None
        try:
            _converse(session, chat, ready)
        except BrokenPipeError:
            # Whoever read the transcript has seen enough; Python would complain once more when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _open(options: ChatOptions) -> Session:
    if is_address(options.run):
        return RemoteSession(options.run, sampling=options.sampling, mode=options.mode)
    return open_session(options.run, sampling=options.sampling, mode=options.mode, seed=options.seed)


def _converse(session: Session, chat: "_Chat", ready: Future | None) -> None:
    said: list[str] = []
    chat.greet(hint(session))
    for line in chat.lines():
        try:
            command, argument = split_command(line)
            if command in LEAVING:
                return
            if ready is not None:
                ready.result()
            if not command:
                chat.reply(Reply(session.send(line)), session)
                said.append(line)
            elif command == "/tool":
                chat.reply(Reply(session.send(tool_result=argument)), session)
            else:
                chat.say(obey(session, command, argument, said))
                said = [] if command == "/reset" else said
        except BrokenPipeError:
            raise
        except OSError as error:
            chat.complain(f"{error.filename}: {error.strerror}" if error.strerror else str(error))
        except ValueError as error:
            chat.complain(str(error))
        except KeyboardInterrupt:
            chat.interrupt()


class _Chat(ABC):
    """Where words come from and go to."""

    def __init__(self, console: Console):
        self._console = console

    @abstractmethod
    def greet(self, text: str) -> None:
        """Say what can be typed."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield what the user says, line by line."""

    @abstractmethod
    def complain(self, text: str) -> None:
        """Say what went wrong."""

    @abstractmethod
    def interrupt(self) -> None:
        """Answer Ctrl-C during a turn."""

    def remark(self, session: Session) -> str:
        """Say what stands behind a reply."""
        return ""

    def say(self, text: str) -> None:
        """Print what is no reply."""
        self._console.print(text, markup=False, soft_wrap=True)

    def reply(self, reply: Reply, session: Session) -> None:
        """Print a reply while it is made."""
        block = ""
        for block, text in laid_out(reply):
            self._console.print(text, end="", style=_STYLES[block], markup=False, soft_wrap=True)
        if block:
            self._console.print(self.remark(session), style="dim", markup=False)
        else:
            self._console.print("model  (nothing)", markup=False)
        if not reply.complete:
            self.complain(_cut(session))


class _Terminal(_Chat):
    """A conversation with somebody who types."""

    def __init__(self):
        super().__init__(Console(highlight=False, emoji=False))

    def greet(self, text: str) -> None:
        self.say(text)

    def lines(self) -> Iterator[str]:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # arrow keys, and what was typed before
        while True:
            try:
                line = printable(input(USER)).strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if line:
                yield MEANT.get(line.lower(), line)

    def complain(self, text: str) -> None:
        self._console.print(text, style="red", markup=False, soft_wrap=True)

    def remark(self, session: Session) -> str:
        """Mark what the model itself finds unlikely."""
        sure = None if isinstance(session, RemoteSession) else session.confidence
        return "  (not sure)" if sure is not None and sure < SURE else ""

    def interrupt(self) -> None:
        """Go on after Ctrl-C; at the prompt it leaves."""
        self._console.print()
        self.complain("stopped; this turn was not written to memory")


class _Pipe(_Chat):
    """A conversation in lines: a transcript on standard output, without escape codes; what went wrong on the other."""

    def __init__(self):
        super().__init__(Console(highlight=False, emoji=False, color_system=None, force_terminal=False))
        self._number = 0

    def greet(self, text: str) -> None:
        """Programs know what to type."""

    def lines(self) -> Iterator[str]:
        for self._number, raw in enumerate(sys.stdin, start=1):
            line = printable(raw.removeprefix("\ufeff")).strip()
            if line:
                self.say(f"{USER}{line}")
                yield line

    def complain(self, text: str) -> None:
        print(f"rxt chat: line {self._number}: {text}", file=sys.stderr, flush=True)

    def interrupt(self) -> None:
        raise KeyboardInterrupt


def _cut(session: Session) -> str:
    if isinstance(session, RemoteSession):
        return "the reply was cut: an interaction, or the server's limit of a reply, is full"
    room = session.max_length if isinstance(session, ChatSession) else session.reply_tokens
    return (
        f"the reply was cut: {'an interaction' if isinstance(session, ChatSession) else 'a reply'} holds {room} tokens"
    )
