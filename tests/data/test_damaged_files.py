"""A damaged file: strict reading stops at the first bad line, tolerant reading accounts for every one and trains."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from damage import WAYS, damage_file
from small import small_recipe

from rxt_jax.cli.main import main
from rxt_jax.data.config import DialogueData, FaultPolicy, FileData
from rxt_jax.data.faults import RecordError
from rxt_jax.data.sources import open_source
from rxt_jax.run import run_recipe
from rxt_jax.stages import InteractionSft, MemoryAware

SGD = Path(__file__).parents[3] / "shared" / "data" / "sgd" / "train.jsonl"
needs_sgd = pytest.mark.skipif(not SGD.is_file(), reason="the dialogue files are at hand in development only")


def generated(folder: Path, count: int = 1200) -> Path:
    source, path = open_source(DialogueData()), folder / "generated.jsonl"
    path.write_text("".join(json.dumps(source.episode(number)) + "\n" for number in range(count)))
    return path


def tolerant(path: Path, quarantine: Path | None = None, max_rate: float = 0.02) -> FileData:
    faults = FaultPolicy(mode="tolerant", max_rate=max_rate, quarantine=str(quarantine) if quarantine else None)
    return FileData(path=str(path), faults=faults)


def check_account(path: Path, damaged: dict[int, str], quarantine: Path, total: int) -> None:
    """Every corrupted line is in the quarantine file with its place, reason and field, and nothing else is."""
    entries = [json.loads(line) for line in quarantine.read_text().splitlines()]
    found = {int(re.search(r"line (\d+)", entry["place"]).group(1)): entry for entry in entries}
    assert len(entries) == len(found) == len(damaged)
    assert found.keys() == damaged.keys()
    for number, way in damaged.items():
        reason, field, _ = WAYS[way]
        assert (found[number]["reason"], found[number]["field"]) == (reason, field), way
        assert found[number]["place"].startswith(str(path)) and found[number]["message"]
        assert found[number]["record"]


@pytest.mark.parametrize("origin", ["generated", pytest.param("sgd", marks=needs_sgd)])
def test_every_bad_line_is_accounted_for(tmp_path, origin):
    source = generated(tmp_path) if origin == "generated" else SGD
    path, total = tmp_path / "damaged.jsonl", sum(1 for _ in source.open("rb"))
    damaged = damage_file(source, path)
    opened = open_source(tolerant(path), tmp_path / "bad.jsonl")
    assert opened.report is not None
    assert opened.size == opened.report.used == total - len(damaged)
    assert (opened.report.read, opened.report.dropped) == (total, {})
    assert opened.report.quarantined == Counter(WAYS[way][0] for way in damaged.values())
    assert f"{total} records read = {total - len(damaged)} used + 0 dropped by policy" in opened.report.summary()
    check_account(path, damaged, tmp_path / "bad.jsonl", total)


def train_on_damaged(source: Path, folder: Path, stage, capsys) -> None:
    path = folder / "damaged.jsonl"
    damaged = damage_file(source, path)
    total = sum(1 for _ in source.open("rb"))
    recipe = small_recipe(folder / "run", {"training": stage})
    recipe = replace(recipe, data=replace(recipe.data, source=tolerant(path)))
    assert run_recipe(recipe)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"training data: {total} records read = {total - len(damaged)} used + 0 dropped by policy" in printed
    check_account(path, damaged, folder / "run" / "quarantine" / "train.jsonl", total)
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in metrics if line["split"] == "train"]) == 4


@pytest.mark.slow
def test_a_damaged_file_trains(tmp_path, capsys):
    train_on_damaged(generated(tmp_path), tmp_path, InteractionSft(), capsys)


@needs_sgd
@pytest.mark.slow
def test_a_damaged_file_of_real_conversations_trains(tmp_path, capsys):
    train_on_damaged(SGD, tmp_path, MemoryAware(), capsys)


@pytest.mark.parametrize("way", WAYS)
def test_strict_reading_stops_at_the_line_and_names_the_field(tmp_path, way):
    source = generated(tmp_path, 4)
    lines = source.read_bytes().splitlines()
    reason, field, change = WAYS[way]
    lines[2] = lines[0] if change is None else change(lines[2])
    source.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordError, match=r"generated\.jsonl, line 3") as caught:
        open_source(FileData(path=str(source)))
    assert (caught.value.reason, caught.value.field) == (reason, field)
    if field is not None:
        assert f"'{field}'" in str(caught.value) or field in str(caught.value)


def test_more_bad_records_than_allowed_are_an_error_that_counts_them(tmp_path):
    path = tmp_path / "damaged.jsonl"
    damaged = damage_file(generated(tmp_path, 100), path)
    with pytest.raises(ValueError, match=rf"{len(damaged)} of 100 records are bad .*not_json.*bad\.jsonl"):
        open_source(tolerant(path, tmp_path / "bad.jsonl", max_rate=0.05))
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == len(damaged)
    open_source(tolerant(path, tmp_path / "bad.jsonl", max_rate=0.11))


def test_tolerant_reading_needs_a_place_for_what_it_rejects(tmp_path):
    with pytest.raises(ValueError, match=r"set faults\.quarantine"):
        open_source(tolerant(generated(tmp_path, 2)))


def test_a_quarantine_file_is_written_anew_and_replaces_nothing_else(tmp_path):
    path, quarantine = tmp_path / "damaged.jsonl", tmp_path / "bad.jsonl"
    source = generated(tmp_path, 100)
    damaged = damage_file(source, path)
    for _ in range(2):
        open_source(tolerant(path, quarantine, max_rate=1.0))
        assert len(quarantine.read_text().splitlines()) == len(damaged)
    open_source(tolerant(source, quarantine))
    assert quarantine.read_text() == ""
    before = source.read_bytes()
    with pytest.raises(ValueError, match="is no quarantine file"):
        open_source(tolerant(path, source))
    assert source.read_bytes() == before


def test_inspect_reports_a_damaged_file(tmp_path, capsys):
    path = tmp_path / "damaged.jsonl"
    damage_file(generated(tmp_path, 150), path)
    assert main(["data", "inspect", str(path)]) == 2
    assert re.search(r"damaged\.jsonl, line \d+", capsys.readouterr().err)
    options = [
        "--faults.mode",
        "tolerant",
        "--faults.max-rate",
        "0.2",
        "--faults.quarantine",
        str(tmp_path / "bad.jsonl"),
    ]
    pictures = ["--plots", str(tmp_path / "plots.png"), "--json", "--config.overlong", "drop_record"]
    assert main(["data", "inspect", str(path), *options, *pictures]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["read"]["read"] == 150 == found["read"]["used"] + sum(found["read"]["quarantined"].values())
    assert found["rows"]["rows"] == found["rows"]["used"] + sum(found["rows"]["dropped"].values())
    assert sum(found["modes"].values()) == found["rows"]["rows"] + found["rows"]["interactions_left_out"]
    assert (tmp_path / "plots.png").read_bytes()[:4] == b"\x89PNG"
