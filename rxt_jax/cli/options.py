"""Options from dataclasses: tyro does the parsing, the dataclasses' docstrings are the help."""

import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

__all__ = ["parse"]

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
