"""The documentation site: every public name is in its inventory, every page is in its contents, every command runs."""

import importlib
import re
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import rxt_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / "build" / "site"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

PUBLIC = ("rxt_jax", "rxt_jax.data", "rxt_jax.data.dialogues", "rxt_jax.model", "rxt_jax.ops", "rxt_jax.losses",
          "rxt_jax.stages", "rxt_jax.evaluation", "rxt_jax.serving", "rxt_jax.interop")  # fmt: skip
"""Packages with public names: those whose `__init__` has an `__all__`."""


def test_every_package_with_public_names_has_a_page():
    found = {
        ".".join(("rxt_jax", *file.relative_to(ROOT / "rxt_jax").parts[:-1]))
        for file in (ROOT / "rxt_jax").rglob("__init__.py")
        if re.search(r"^__all__", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    documented = set(
        re.findall(r"(?:auto)?module:: (\S+)", "".join(p.read_text() for p in (DOCS / "api").glob("*.md")))
    )
    assert found <= {*PUBLIC, "rxt_jax.data.hand_typed", "rxt_jax.data.sgd"}
    assert set(PUBLIC) <= documented


def test_the_top_level_page_names_every_public_name():
    page = (DOCS / "api" / "rxt_jax.md").read_text(encoding="utf-8")
    assert len(rxt_jax.__all__) >= 8
    for name in rxt_jax.__all__:
        assert re.search(rf"(?:auto\w+|py:class):: (?:rxt_jax\.)?{name}$", page, re.MULTILINE), name


def test_every_page_is_in_the_contents():
    listed = set()
    for page in DOCS.rglob("*.md"):
        for contents in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            entries = [line for line in contents.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{entry}.md").resolve() for entry in entries}
    pages = {page.resolve() for page in DOCS.rglob("*.md")}
    assert len(listed) > 20
    assert pages - listed == {DOCS / "index.md"}


def inventory(folder: Path) -> set[str]:
    """Names of Python objects in a built site."""
    content = (folder / "objects.inv").read_bytes()
    for _ in range(4):  # four lines say what it is
        content = content.split(b"\n", 1)[1]
    lines = zlib.decompress(content).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path):
    pytest.importorskip("sphinx_book_theme", reason="needs the extra `docs`")
    if not (SITE / "objects.inv").is_file():
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(SITE)]
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
    names = inventory(SITE)
    missing = [
        f"{package}.{name}"
        for package in PUBLIC
        for name in importlib.import_module(package).__all__
        if f"{package}.{name}" not in names
    ]
    assert not missing


def commands() -> list[str]:
    """Every `rxt` command of a shell block in the README and the site, each once, without its comment."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        blocks += re.findall(r"(?:^|\n\n)((?:    .*\n)+)", text)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            words = line.strip().split(" #")[0].split("|")[-1].split("&&")
            found |= {each.strip(): None for each in words if each.strip().startswith("rxt ")}
    return list(found)


SMALL = {
    "train": "--stages.joint-pretraining.updates 1 --stages.interaction-sft.updates 1 "
    "--stages.history-reading.updates 1 --stages.memory-aware.updates 1 "
    "--evaluation.episodes 2 --evaluation.batch-size 2 --evaluation.splits iid",
    "evaluate": "--evaluation.episodes 2 --evaluation.batch-size 2 --evaluation.splits iid",
    "benchmark": "--memory.episodes 2 --memory.batch-size 2 --memory.measurements binding",
}
"""What makes a command short."""

EPISODE = (
    '{"interactions": [{"query": "My cat is Tom.", "answer": "Noted."}, '
    '{"query": "What is my cat called?", "answer": "Tom."}]}\n'
)


def test_commands_are_found():
    found = commands()
    assert len(found) > 20
    assert "rxt train configs/toy.py" in found and "rxt benchmark memory companion" in found


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_of_the_program(command, capsys):
    """Its first words are a command, and every option that it names is in the help of that command."""
    from rxt_jax.cli.main import COMMANDS, main

    _, name, *rest = shlex.split(command)
    assert name in COMMANDS
    options = [word.split("=")[0] for word in rest if word.startswith("--")]
    if not options or name == "train":  # the options of `train` are fields of the recipe: run in the slow test
        return
    leading = [word for word in rest[:1] if name in ("data", "tokenizer", "benchmark") and word.isalpha()]
    try:
        main([name, *leading, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
    printed = capsys.readouterr().out
    for option in options:
        assert option in printed, option


@pytest.mark.slow
def test_the_commands_of_a_first_hour_run(tmp_path):
    """What the start page shows, at small size and in order, in an empty folder."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_conversations.jsonl").write_text(EPISODE * 4, encoding="utf-8")
    shown = commands()
    order = [
        "rxt chat companion",
        "rxt train configs/toy.py",
        "rxt data inspect my_conversations.jsonl",
        "rxt inspect rxt_alpha_micro",
        "rxt evaluate companion",
        "rxt benchmark memory companion",
    ]
    for command in order:
        assert command in shown
        _, name, *rest = shlex.split(command)
        arguments = [sys.executable, "-m", "rxt_jax", name, *rest, *shlex.split(SMALL.get(name, ""))]
        done = subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, input="hello\n", env=_environment(), timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}
