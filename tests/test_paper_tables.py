"""The page of the papers' tables is what its command writes from the figures that were measured."""

import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(FOLDER / "paper_tables_page.py"))


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_the_page_has_the_figures_that_were_measured(script):
    written = (FOLDER / "paper_tables.md").read_text(encoding="utf-8")
    assert written == script["page"](read("paper_tables.json"), read("latency.json"))


def test_what_was_not_measured_is_said_and_leaves_the_published_figures(script):
    page = script["page"]({}, read("latency.json"))
    assert page.count("Ours is not measured yet") == 5
    rows = [re.findall(r"[^|]+", line) for line in page.splitlines() if line.startswith("| sSQA")]
    assert [float(row[1]) for row in rows] == [round(243 / 269, 2), round(1.2201 / 1.1976, 3)]


def test_shares_are_of_the_first_variant(script):
    times = {name: {"wall": 9.0, "processor": 2.0 if name == "MHA" else 0.5} for name in script["ATTENTION"]}
    figures = {"attention-time": {"by_length": {"8192": times}, "date": "today", "machine": "one", "seconds": 1}}
    page = script["page"](figures, read("latency.json"))
    assert "| variant | published, T = 1024 | ours, T = 8192 |" in page
    assert "| MHA | 1.00 | 1.00 |" in page and "| xSQA | 0.87 | 0.25 |" in page
