"""`account.json` of a run: what every sitting at a stage took, and what became of the data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rxt_jax.paths import read_json, replace_file

__all__ = ["ACCOUNT_FILE", "note_data", "note_stage", "read_account"]

ACCOUNT_FILE = "account.json"


def note_stage(folder: Path, stage: str, sitting: Mapping[str, Any]) -> None:
    """Add a sitting: the updates from which to which it went, its seconds, and on what it ran.

    A stage that was stopped and goes on has several.
    """
    account = read_account(folder)
    account["stages"].setdefault(stage, []).append(dict(sitting))
    _write(folder, account)


def note_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Set what became of the records and rows of the last sitting."""
    _write(folder, read_account(folder) | {"data": dict(data)})


def read_account(folder: Path) -> dict[str, Any]:
    """Read the account; an empty one where none was kept, as in runs of before. A damaged one is a `ValueError`."""
    file = folder / ACCOUNT_FILE
    empty = {"stages": {}, "data": {}}
    if not file.is_file():
        return empty
    account = read_json(file)
    if not isinstance(account, dict) or any(not isinstance(account.get(part), dict) for part in empty):
        raise ValueError(f"{file} is no account of a run; expected an object with {' and '.join(empty)}")
    return account


def _write(folder: Path, account: Mapping[str, Any]) -> None:
    replace_file(folder / ACCOUNT_FILE, json.dumps(account, indent=1))
