"""Options from dataclasses: tyro does the parsing, the dataclasses' docstrings are the help."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TypeVar, get_type_hints

import tyro

__all__ = ["parse", "split_arguments"]

T = TypeVar("T")


def parse(options: type[T], arguments: Sequence[str], program: str, default: T | None = None) -> T:
    """Parse arguments into a dataclass; wrong ones end the program with exit code 2."""
    if default is None:
        return tyro.cli(options, args=list(arguments), prog=program)
    try:
        # A field that may be of several classes keeps the class it has; its fields stay options.
        config = (tyro.conf.AvoidSubcommands,)
        return tyro.cli(options, args=list(arguments), prog=program, default=default, config=config)
    except (ValueError, TypeError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def split_arguments(options: type, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell the options of a dataclass from the others, which belong to a recipe with fields of its own."""
    hints = get_type_hints(options)
    takes_value = {
        f"--{each.name.replace('_', '-')}": hints[each.name] is not bool for each in dataclasses.fields(options)
    }
    mine: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, _, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in takes_value:
            rest.append(word)
            continue
        mine.append(word)
        if takes_value[name] and not value and waiting:
            mine.append(waiting.pop(0))
    return mine, rest
