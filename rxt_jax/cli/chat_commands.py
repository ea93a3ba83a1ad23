"""What can be typed into a chat besides words: `/facts`, `/memory` and the like."""

import difflib
import os
from collections.abc import Sequence
from typing import get_args

from rxt_jax.cli.chat_text import change_text, facts_text, memory_text
from rxt_jax.cli.facts import facts_known
from rxt_jax.cli.remote_session import RemoteSession
from rxt_jax.data.template import ThinkingMode
from rxt_jax.serving import ChatSession, HistorySession

__all__ = ["HELP", "LEAVING", "MEANT", "Session", "hint", "obey", "split_command"]

Session = ChatSession | HistorySession | RemoteSession
"""What a chat can talk to."""

HELP = """  /facts         what the model says it knows; asking changes nothing
  /memory        how full memory is and what the last turn changed, by layer and slot
  /reset         forget everything
  /save FILE     write the memory         /load FILE     take it back
  /think MODE    fast, extended or auto   /tool TEXT     give a tool's result
  /help          this                     /quit          leave"""

LEAVING = ("/quit", "/exit")
MEANT = {"help": "/help", "?": "/help", "quit": "/quit", "exit": "/exit"}
"""What people type who look for a command, and never say to a model."""

_ARGUMENTS = {"/save": "FILE", "/load": "FILE", "/think": "MODE", "/tool": "TEXT"}
_COMMANDS = ("/facts", "/memory", "/reset", "/save", "/load", "/think", "/tool", "/help", *LEAVING)


def hint(session: Session) -> str:
    """Say what to type first."""
    how = "reads what you said again" if isinstance(session, HistorySession) else "keeps what you say in its memory"
    return (
        f"Tell the model something and ask for it later: it {how}. For example\n"
        "  My dog is called Rex.\n"
        "  I live in Porto and work as a nurse.\n"
        "  What is my dog called?\n"
        "/help lists the commands, /quit or Ctrl-D leaves."
    )


def split_command(line: str) -> tuple[str, str]:
    """Split a line into command and argument, both empty where it is none.

    An unknown command, or one without the argument that it needs, is a `ValueError` that says what to type.
    """
    if not line.startswith("/"):
        return "", ""
    command, _, argument = line.partition(" ")
    command, argument = command.lower(), argument.strip()
    if command not in _COMMANDS:
        near = [each for each in _COMMANDS if each.startswith(command) and len(command) > 1]
        near = near or difflib.get_close_matches(command, _COMMANDS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no command {line.split()[0]}; {meant}/help lists all")
    if command in _ARGUMENTS and not argument:
        raise ValueError(f"{command} needs more: {command} {_ARGUMENTS[command]}")
    return command, argument


def obey(session: Session, command: str, argument: str, said: Sequence[str]) -> str:
    """Carry out a command other than `/tool` and `/quit` and say what came of it; `said` is what the user said."""
    if command == "/help":
        return HELP
    if command == "/reset":
        session.reset()
        return "the model has forgotten everything"
    if command == "/think":
        modes = get_args(ThinkingMode)
        if argument not in modes:
            raise ValueError(f"/think {argument}: the mode must be {', '.join(modes[:-1])} or {modes[-1]}")
        session.mode = argument  # type: ignore[assignment]
        return f"thinking: {argument}"
    if isinstance(session, HistorySession):
        return "this model has no memory: it reads the whole conversation again"
    argument = os.path.expanduser(argument)  # a shell would have done it
    if command == "/save":
        session.export_memory(argument)
        return f"memory written to {argument}"
    if command == "/load":
        session.import_memory(argument)
        return f"memory taken from {argument}"
    if isinstance(session, RemoteSession):
        if command == "/facts":
            return "/facts needs the memory here, but the server has it"
        if session.change is None:
            return "nothing was written since the conversation began or was loaded"
        return change_text(session.change)
    if command == "/facts":
        return facts_text(facts_known(session, said))
    return memory_text(session.memory_change())
