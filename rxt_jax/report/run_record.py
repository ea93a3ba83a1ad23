"""What a run's folder says, read from its files and not changed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rxt_jax.paths import files_below, read_json
from rxt_jax.recipe_file import read_recipe_file
from rxt_jax.report.account import read_account
from rxt_jax.shipped import named_folder

__all__ = ["LACKING", "RunRecord", "differing_fields", "flat_fields", "read_run", "thinned"]


LACKING = "…"
"""Stands for the value of a field that a recipe does not have."""


class RunRecord(NamedTuple):
    """One run. `evaluations` are the contents of every `recall.json` by its folder ("" is the run's own), `metrics` the
    lines of `metrics.jsonl`, `samples` the texts of `samples/` by file and `sources` what is known of where their
    answers came from, `account` that of `account.json`."""

    name: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    git: str | None
    metrics: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]]
    samples: dict[str, str]
    sources: dict[str, list[dict[str, Any]]]
    account: dict[str, Any]


def read_run(run: str | Path) -> RunRecord:
    """Read a run's folder; an exported model has a recipe and little else.

    A folder without `recipe.json` is a `FileNotFoundError`; a file that is no JSON is a `ValueError` that names it.
    """
    folder = named_folder(run)
    content = read_recipe_file(folder)
    metrics_file, results = folder / "metrics.jsonl", folder / "evaluation"
    lines = metrics_file.read_text(encoding="utf-8").splitlines() if metrics_file.is_file() else []
    metrics = [_parsed(line, f"{metrics_file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    evaluations = {
        file.parent.relative_to(results).as_posix().replace(".", ""): read_json(file)
        for file in sorted(files_below(results) if results.is_dir() else ())
        if file.name == "recall.json"
    }
    samples = {file.name: file.read_text(encoding="utf-8") for file in sorted((folder / "samples").glob("*.txt"))}
    sources = {file.stem: read_json(file) for file in sorted((folder / "samples").glob("*.json"))}
    name = str(run).rstrip("/").rsplit("/", 1)[-1]
    versions = content.get("versions") or {}
    account = read_account(folder)
    return RunRecord(
        name, content["recipe"], versions, content.get("git"), metrics, evaluations, samples, sources, account
    )


def flat_fields(value: Any, place: str = "") -> dict[str, Any]:
    """Write a tree of fields as path → value; lists of plain values stay whole."""
    if isinstance(value, dict) and value:
        return {
            k: v for name, each in value.items() for k, v in flat_fields(each, f"{place}.{name}".lstrip(".")).items()
        }
    return {place: value}


def differing_fields(records: Sequence[RunRecord]) -> list[tuple[str, list[Any]]]:
    """List the fields of the recipes that are not the same in all runs, with their values.

    What a recipe lacks altogether, such as a stage, is one row: `…` there, and the number of fields where it is.
    """

    def differences(values: list[Any], place: str) -> list[tuple[str, list[Any]]]:
        if all(value == values[0] for value in values[1:]):
            return []
        if all(isinstance(value, dict) for value in values):
            names = dict.fromkeys(name for value in values for name in value)
            inside = (
                differences([v.get(name, LACKING) for v in values], f"{place}.{name}".lstrip(".")) for name in names
            )
            return [row for rows in inside for row in rows]
        counted = [f"({len(flat_fields(each))} fields)" if isinstance(each, dict) else each for each in values]
        return [(place, counted)]

    return differences([record.recipe for record in records], "")


def thinned(metrics: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Keep at most about `most` lines of every stage and split, at even distances, the last one always."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in metrics:
        groups.setdefault((line["stage"], line["split"]), []).append(line)
    kept = []
    for lines in groups.values():
        step = -(-len(lines) // most)
        kept += lines[:-1:step] + lines[-1:]
    return kept


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is no JSON: {error}") from None
