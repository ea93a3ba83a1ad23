"""Tracing the memory of a run: what may be given, what is refused, and the command."""

import json

import pytest

import rxt_jax
from rxt_jax.cli.main import main
from rxt_jax.run_inspection import read_conversations


def test_a_run_is_traced_from_texts_and_by_the_command(finished_run, tmp_path):
    folder = finished_run.run_folder
    trace = rxt_jax.trace_memory(folder, ["My cat is Tom.", "My cat?"], experiments=["erase"])
    assert [turn.own_answer for turn in trace.turns] == [True, True]
    file, page = tmp_path / "talk.jsonl", tmp_path / "page.html"
    episode = {"interactions": [{"query": "My cat is Tom."}, {"query": "My cat?", "answer": "Tom."}]}
    file.write_text(json.dumps(episode))
    assert main(["inspect-memory", str(folder), str(file), "-o", str(page), "--experiments", "erase"]) == 0
    written = page.read_text(encoding="utf-8")
    assert "small: talk.jsonl" in written and len(written.encode()) < 2_000_000
    assert written.count("(given)") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is empty; expected one conversation per line"),
        ('{"interactions": []}', "line 1: the episode is empty"),
        ('{"interactions": [{"answer": "Tom."}]}', "has neither 'query' nor 'tool_use'"),
        ('{"text": "My cat"}', "field 'interactions' must be a list, got nothing"),
        ("My cat is Tom.", "line 1"),
    ],
)
def test_a_file_of_something_else_is_refused_by_place(tmp_path, line, message):
    file = tmp_path / "talk.jsonl"
    file.write_text(line)
    with pytest.raises(ValueError, match=message):
        read_conversations(file)


def test_answers_may_be_missing_and_nothing_stands_for_them(tmp_path):
    file = tmp_path / "talk.jsonl"
    file.write_text('{"interactions": [{"query": "My cat?"}, {"query": "Who?", "answer": "Tom."}]}\n')
    (found,) = read_conversations(file)
    assert found["interactions"] == [{"query": "My cat?"}, {"query": "Who?", "answer": "Tom."}]
