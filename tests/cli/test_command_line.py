"""The command line: help, exit codes, one clear message for bad input."""

import json
import shutil
from pathlib import Path

import pytest

from rxt_jax.cli.main import COMMANDS, main
from rxt_jax.recipe import to_json

CONFIG = "configs/toy.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    try:
        code = main([command, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert command in capsys.readouterr().out


def exit_code(arguments):
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage"),
        (["fly"], "unknown command 'fly'"),
        (["train", "nowhere.py"], "nowhere.py does not exist"),
        (["train", "."], ". is a folder; expected a Python file that defines `recipe`"),
        (
            ["train", CONFIG, "--start-from", "nowhere", "--cpu-devices", "None"],
            "start_from: nowhere does not exist; expected the folder of a run",
        ),
        (["train", CONFIG, "--stages.memory-aware.updats", "3"], "updats"),
        (["train", CONFIG, "--stages.memory-aware.updates", "-3"], "updates must be at least 1, got -3"),
        (["train", CONFIG, "--model.num-slots", "many"], "many"),
        (["train", CONFIG, "--data.max-length", "99"], "data.max_length = 99 exceeds model.max_length"),
        (["chat", "nowhere"], "nowhere is no run folder"),
        (["evaluate", "nowhere"], "nowhere is no run folder"),
        (["inspect", "nowhere"], "presets: toy"),
        (["export", "nowhere", "there"], "nowhere is no run folder"),
        (["train", CONFIG, "--cpu-devices", "0"], "cpu_devices must be at least 1, got 0"),
        (["train", CONFIG, "--keep-checkpoints", "0"], "keep_checkpoints must be at least 1, got 0"),
        (["benchmark", "--interactions", "0"], "--interactions must be at least 1, got 0"),
        (["benchmark", "--interactions-per-call", "-1"], "--interactions-per-call must be at least 1, got -1"),
        (["serve", "companion", "--port", "99999"], "--port must be 0 to 65535, got 99999"),
        (["serve", "companion", "--slots", "0"], "--slots must be at least 1, got 0"),
        (["report", "nowhere", "-o", "."], ". is a folder; name the file to write"),
        (["inspect-memory", "nowhere", "c.jsonl", "-o", "no/where.html"], "where.html cannot be written there"),
        (["data", "inspect", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(arguments, message, capsys):
    assert exit_code(arguments) == 2
    printed = capsys.readouterr()
    assert message in " ".join((printed.out + printed.err).split())
    assert "Traceback" not in printed.out + printed.err


TOY = (
    "import runpy\nfrom dataclasses import replace\n"
    f"toy = runpy.run_path({str(Path(__file__).parents[2] / 'configs' / 'toy.py')!r})['recipe']\n"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("recipe = 3", "expected `recipe = Recipe(...)`, got int"),
        ("from rxt_jax.recipe import Recipe\nrecipe = Recipe(colour='red')", "unexpected keyword argument 'colour'"),
        ("recipe = Recipe()", "NameError: name 'Recipe' is not defined"),
        ("recipe = (", "SyntaxError: '(' was never closed"),
        (TOY + "recipe = replace(toy, seed='a')", "recipe.seed must be int, got 'a'"),
        (
            TOY + "run = toy.stages['memory_aware']\n"
            "run = replace(run, optimizer=replace(run.optimizer, name='moun'))\n"
            "recipe = replace(toy, stages={'memory_aware': run})",
            "recipe.stages.memory_aware.optimizer.name must be one of 'adamw', 'muon', 'lion', 'adafactor', got 'moun'",
        ),
        (
            TOY + "recipe = replace(toy, stages={'../x': toy.stages['memory_aware']})",
            "a stage's name is that of a folder and has no slashes, got '../x'",
        ),
        (
            TOY + "recipe = replace(toy, data=replace(toy.data, end_cut_texts='no'))",
            "recipe.data.end_cut_texts must be bool, got 'no'",
        ),
    ],
)
def test_bad_config_files_are_named(tmp_path, content, message, capsys):
    file = tmp_path / "config.py"
    file.write_text(content)
    assert main(["train", str(file)]) == 2
    printed = capsys.readouterr().err
    assert str(file) in printed
    assert message in printed


@pytest.fixture(scope="module")
def run_folder(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    shutil.copytree(finished_run.run_folder, folder)
    return folder


def test_results_have_a_place_before_they_are_measured(run_folder, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert main(["evaluate", str(run_folder), "--output", str(tmp_path / "taken")]) == 2
    assert str(tmp_path / "taken") in capsys.readouterr().err


def test_inspect_counts_parameters_and_lists_checkpoints(run_folder, capsys):
    assert main(["inspect", str(run_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoints"] == {"sft": [2, 4]}
    assert found["parameters"]["learned_memory"] == 2 * 4 * 16
    assert main(["inspect", "rxt_beta_3b_a190m"]) == 0
    assert "2,808,383,488" in capsys.readouterr().out


def test_evaluate_prints_json_for_programs_and_reads_files(run_folder, tmp_path, capsys):
    recall = [{"slot": "cat", "value": "Tom", "distance": 1}]
    turns = [{"query": "My cat is Tom.", "answer": "Noted."}, {"query": "My cat?", "answer": "Tom.", "recall": recall}]
    file = tmp_path / "episodes.jsonl"
    file.write_text("".join(json.dumps({"id": n, "interactions": turns}) + "\n" for n in range(4)))
    options = ["--evaluation.episodes", "4", "--evaluation.batch-size", "4", "--evaluation.max-new-tokens", "4"]
    assert main(["evaluate", str(run_folder), "--data", str(file), "--json", *options]) == 0
    summary = json.loads(capsys.readouterr().out)["held_out"]
    assert summary["conditions"]["memory"]["asked_by_distance"] == {"1": 4}
    assert (run_folder / "evaluation" / "episodes" / "recall.png").is_file()


def test_evaluate_lets_people_who_typed_ask(run_folder, tmp_path, capsys):
    turns = [{"user": "My cat is Tom."}, {"user": "My cat?", "expect": ["Tom"]}, {"user": "My dog?", "absent": True}]
    file = tmp_path / "typed.jsonl"
    file.write_text(json.dumps({"id": "a", "habit": "pets", "turns": turns}))
    assert main(["evaluate", str(run_folder), "--data", str(file), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["conditions"]["memory"]["all"]["asked"] == summary["questions"] == 2
    assert "== a (pets)" in (run_folder / "evaluation" / "typed" / "transcript.txt").read_text()
    file.write_text(json.dumps({"id": "a", "habit": "pets", "turns": [{"user": 3}]}))
    assert main(["evaluate", str(run_folder), "--data", str(file)]) == 2
    assert "typed.jsonl, line 1, turn 0: field 'user' must be text" in capsys.readouterr().err


def test_data_generate_writes_what_every_stage_reads(tmp_path, capsys):
    assert main(["data", "generate", str(tmp_path), "--episodes", "3"]) == 0
    capsys.readouterr()
    episodes = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert len(episodes) == 3
    assert json.loads(episodes[0])["interactions"]
    assert (tmp_path / "text.txt").read_text().strip()
    assert main(["data", "inspect", str(tmp_path / "episodes.jsonl")]) == 0
    assert "[Q]" in capsys.readouterr().out


def test_recipe_json_holds_the_resolved_config(run_folder, finished_run):
    stored = json.loads((run_folder / "recipe.json").read_text())
    assert {"recipe", "versions", "git"} <= stored.keys()
    assert to_json(finished_run)["stages"] == stored["recipe"]["stages"]
