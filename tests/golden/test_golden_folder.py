"""Golden data are read from one folder; what is missing is an error in this repository and a stated skip elsewhere."""

import json

import golden_case
import pytest
from golden_case import COMMITTED, case_names, golden_path, load_tensors, none_found

GROUPS = ("arch", "checkpoints", "data", "rl", "stages", "tokenizer")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder that RXT_GOLDEN names, with two cases in one group."""
    (tmp_path / "arch").mkdir()
    for name, size in (("ff_small", 1), ("ff_large", 9)):
        (tmp_path / "arch" / f"{name}.json").write_text(json.dumps({"config": {"size": size}}))
    monkeypatch.setattr(golden_case, "FOLDER", tmp_path)
    return tmp_path


def test_this_repository_holds_every_group():
    assert all(any((COMMITTED / group).iterdir()) for group in GROUPS)


def test_cases_are_found_by_listing_and_chosen_by_what_they_say(elsewhere):
    assert case_names("arch", "ff_") == case_names("arch") == ["ff_large", "ff_small"]
    assert case_names("arch", "ff_", where=lambda facts: facts["config"]["size"] > 1) == ["ff_large"]
    marked, plain = case_names("arch", "ff_", slow=lambda facts: facts["config"]["size"] > 1)
    assert plain == "ff_small" and [mark.name for mark in marked.marks] == ["slow"]


def test_what_another_folder_lacks_is_skipped_with_the_reason(elsewhere):
    (lacking,) = case_names("arch", "moe_")
    (skip,) = lacking.marks
    assert skip.name == "skip" and f"{elsewhere / 'arch'} has no case moe_*.json (RXT_GOLDEN)" in skip.kwargs["reason"]
    for read in (lambda: golden_path("rl"), lambda: load_tensors(elsewhere / "arch" / "ff_small.safetensors")):
        with pytest.raises(pytest.skip.Exception, match=r"does not exist.*\(RXT_GOLDEN\)"):
            read()


def test_what_this_repository_lacks_is_an_error(elsewhere, monkeypatch):
    monkeypatch.setattr(golden_case, "COMMITTED", elsewhere)
    for read in (
        lambda: case_names("arch", "moe_"),
        lambda: golden_path("rl", "any.json"),
        lambda: load_tensors(elsewhere / "arch" / "ff_small.safetensors"),
        lambda: none_found("nothing is here"),
    ):
        with pytest.raises(FileNotFoundError, match="belongs to this repository"):
            read()
