"""The report of runs: every number is that of a file, and the page needs nothing but itself."""

import json
import re
from dataclasses import replace

import pytest

from rxt_jax.cli.main import main
from rxt_jax.report import note_stage, read_run, run_page
from rxt_jax.report.account import ACCOUNT_FILE, read_account
from rxt_jax.report.run_record import LACKING, differing_fields, flat_fields, thinned
from rxt_jax.run_folder import write_recipe

RECALL = {
    "episodes": 8,
    "chance": 0.25,
    "conditions": {
        name: {
            "recall": share,
            "recall_by_bucket": {"1": share, "2": None},
            "recall_by_distance": {"1": share},
            "answer_perplexity": 1.5 + share,
        }
        for name, share in (("memory", 0.6543), ("zeroed", 0.0123), ("shuffled", 0.0456), ("frozen", 0.2789))
    },
}


def embedded(page):
    return json.loads(re.search(r'id="runs">(.*?)</script>', page, re.S).group(1))


def cells(page, heading):
    """Give the rows of the first table behind a heading as lists of texts."""
    table = page.split(f">{heading}</h", 1)[1].split("<table>", 1)[1].split("</table>", 1)[0]
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tr>")[1:]]


@pytest.fixture
def evaluated_run(copied_run):
    folder = copied_run.run_folder
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation" / "recall.json").write_text(json.dumps({"iid": RECALL}))
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "conversation.txt").write_text("you    a < b?\nmodel  yes")
    (folder / "samples" / "of_before.txt").write_text("you    kept as it is")
    told = {"query": "My dog is Rex.", "answer": "I see.", "memory_nats": -0.04, "said": {}}
    asked = {"query": "a < b?", "answer": "Rex & dog", "memory_nats": 3.21, "said": {"0": ["rex", "dog"]}}
    (folder / "samples" / "conversation.json").write_text(json.dumps([told, asked]))
    return copied_run


def test_the_numbers_are_those_of_the_files(evaluated_run):
    folder = evaluated_run.run_folder
    page = run_page([read_run(folder)])
    (run,) = embedded(page)
    assert run["evaluations"] == {"": json.loads((folder / "evaluation" / "recall.json").read_text())}
    assert run["metrics"] == [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run["recipe"] == json.loads((folder / "recipe.json").read_text())["recipe"]
    head, *rows = cells(page, "iid")
    assert head == ["run", "memory", "1", "2", "all, %", "perplexity"]
    conditions = RECALL["conditions"].items()
    assert rows == [
        [
            "run",
            name,
            f"{100 * each['recall']:.1f}",
            "",
            f"{100 * each['recall']:.1f}",
            f"{each['answer_perplexity']:.4g}",
        ]
        for name, each in conditions
    ]
    assert cells(page, "run: conversation.txt")[1:] == [
        ["1", "My dog is Rex.", "I see.", "-0.0", ""],
        ["2", "a &lt; b?", "Rex &amp; dog", "+3.2", "turn 1: rex, dog"],
    ]
    assert "<pre>you    kept as it is</pre>" in page and not re.search(r"https?://|@import|url\(|src=", page)


def test_a_run_keeps_an_account_of_time_and_data(evaluated_run):
    account = json.loads((evaluated_run.run_folder / ACCOUNT_FILE).read_text())
    (sitting,) = account["stages"]["sft"]
    assert (sitting["from"], sitting["to"]) == (0, 4) and sitting["seconds"] >= sitting["compile_seconds"] > 0
    rows = account["data"]["rows"]
    assert rows["rows"] == rows["used"] + sum(rows["dropped"].values()) > 0
    record = read_run(evaluated_run.run_folder)
    page = run_page([record])
    row = cells(page, "Cost")[1]
    assert row[:3] == ["run", "sft", "4"] and row[5] == f"{sitting['seconds']:,.0f}" and row[-1].startswith("1 ×")
    assert row[4] == "–"  # nobody knows the peak of this machine
    known = record._replace(metrics=[line | {"mfu": 0.412} for line in record.metrics])
    assert cells(run_page([known]), "Cost")[1][4] == "41.2"
    assert ["rows.used", str(rows["used"])] in cells(page, "Data")


def test_sittings_add_up(tmp_path):
    for start in (0, 10):
        note_stage(tmp_path, "sft", {"from": start, "to": start + 10, "seconds": 2.0})
    assert [each["from"] for each in read_account(tmp_path)["stages"]["sft"]] == [0, 10]


def test_runs_side_by_side_show_where_recipes_differ(evaluated_run, tmp_path):
    other = tmp_path / "other"
    write_recipe(replace(evaluated_run, seed=7, stages={"later": evaluated_run.stages["sft"]}), other)
    records = [read_run(evaluated_run.run_folder), read_run(other)]
    rows = dict(differing_fields(records))
    assert rows["seed"] == [0, 7]
    count = len(flat_fields(records[0].recipe["stages"]["sft"]))
    assert rows["stages.sft"] == [f"({count} fields)", LACKING]
    assert rows["stages.later"] == [LACKING, f"({count} fields)"]
    assert set(rows) == {"seed", "folder", "model.vocab_size", "stages.sft", "stages.later"}
    page = run_page(records)
    assert ["seed", "0", "7"] in cells(page, "Recipe") and len(embedded(page)) == 2


def test_long_runs_keep_their_last_line():
    lines = [{"stage": "a", "split": "train", "update": update, "loss": 1 / update} for update in range(1, 1002)]
    kept = thinned(lines, 50)
    assert 40 <= len(kept) <= 52 and kept[0] == lines[0] and kept[-1] == lines[-1]
    assert all(line in lines for line in kept)


def test_the_command_writes_a_page(evaluated_run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(evaluated_run.run_folder), "-o", str(page)]) == 0
    assert "Recall by distance" in page.read_text(encoding="utf-8")
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "has no recipe.json" in capsys.readouterr().err
    (evaluated_run.run_folder / "metrics.jsonl").write_text('{"stage": "sft"\n')
    assert main(["report", str(evaluated_run.run_folder)]) == 2
    assert "metrics.jsonl, line 1 is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"stages"', "[]", '{"stages": {}}'])
def test_a_damaged_account_is_named(tmp_path, content):
    (tmp_path / ACCOUNT_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"account\.json"):
        read_account(tmp_path)
