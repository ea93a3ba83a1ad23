"""The documentation site: every public name is in its inventory, every page is in its contents, every command runs."""

import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import rxt_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

PUBLIC = ("rxt_jax", "rxt_jax.data", "rxt_jax.data.dialogues", "rxt_jax.model", "rxt_jax.ops", "rxt_jax.losses",
          "rxt_jax.rewards", "rxt_jax.stages", "rxt_jax.evaluation", "rxt_jax.inspection", "rxt_jax.report",
          "rxt_jax.serving", "rxt_jax.server", "rxt_jax.interop", "rxt_jax.scaling")  # fmt: skip
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
    assert found <= {
        *PUBLIC,
        "rxt_jax.pages",
        *(f"rxt_jax.data.{name}" for name in ("hand_typed", "question_sets", "sgd")),
    }
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
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    names = inventory(tmp_path)
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


FEW = "--evaluation.episodes 2 --evaluation.batch-size 2 --evaluation.splits iid"

RUN = {
    "rxt inspect rxt_alpha_micro": "",
    "rxt train configs/toy.py --help": "",
    "rxt data generate data/": "--episodes 3",
    "rxt data inspect": "",
    "rxt data inspect my_conversations.jsonl": "",
    "rxt data inspect my_conversations.jsonl --config.max-length 96 --config.overlong cut_input_first": "",
    "rxt data inspect FILE --tokenizer FOLDER --plots lengths.png": "",
    "rxt data prepare my_conversations.jsonl ready --tokenizer runs/toy": "",
    "rxt data prepare chats/ prepared/ --tokenizer runs/toy --recipe configs/toy.py --workers 2": "",
    "rxt tokenizer train tokenizer/ --data my_conversations.jsonl": "--config.vocab-size 400",
    'rxt tokenizer inspect FOLDER "a text"': "",
    "rxt chat companion": "",
    "rxt chat runs/toy": "",
    "rxt evaluate runs/toy --data my_conversations.jsonl": FEW,
    "rxt evaluate companion": FEW,
    "rxt benchmark memory companion": "--memory.episodes 2 --memory.batch-size 2 --memory.measurements binding",
    "rxt benchmark mrq runs/toy": "--mrq.episodes 2 --mrq.batch-size 2 --mrq.max-interactions 3",
    "rxt inspect-memory companion conversation.jsonl -o memory.html": "",
}
"""Commands that are run, in this order, with what makes them short. `runs/toy` is a copy of the companion."""

_TRAINS = "trains for minutes; the notebooks and tests/test_configs.py train the same recipes small"
_SEVERAL = "needs two machines; tests/train starts two processes"
_SERVES = "does not end; tests/server runs it and talks to it"
_PUBLISHED = "needs what is not in this repository; tests/golden converts and reads small ones"
_BUCKET = "needs a bucket; tests/test_object_stores.py has one without a network"
NOT_RUN = {
    "rxt train configs/toy.py": _TRAINS,
    "rxt train configs/toy.py --name toy_1800 --stages.memory-aware.updates 1800": _TRAINS,
    "rxt train my_recipe.py": _TRAINS,
    "rxt train my_recipe.py --start-from runs/toy": _TRAINS,
    "rxt train configs/sgd/small.py --data.source.sources.0.path 'chats/*.jsonl.gz'": _TRAINS,
    "rxt serve runs/toy": _SERVES,
    "rxt serve companion": _SERVES,
    "rxt serve runs/toy --host 0.0.0.0 --keys keys.txt --slots 16 --limits.disk-mib 50000": _SERVES,
    "rxt chat http://127.0.0.1:8000": _SERVES,
    "rxt inspect-memory runs/toy conversation.jsonl -o memory.html": "runs above, with the companion",
    "rxt report runs/toy runs/other -o report.html": "needs finished runs; tests/report does it with small ones",
    "rxt benchmark memory runs/toy --data babi:tasks/qa1_test.txt sessions:longmemeval_s.json my_conversations.jsonl": (
        "needs published files; tests/evaluation asks small ones"
    ),
    "rxt benchmark mrq runs/toy --baseline runs/toy_baseline": "needs a trained baseline; tests/evaluation has one",
    "rxt benchmark mrq runs/toy --data my_conversations.jsonl --mrq.no-teacher-forcing": "runs above, on other data",
    "rxt evaluate runs/mine": "the run of a reader's own",
    "rxt chat runs/mine": "the run of a reader's own",
    "rxt evaluate companion --evaluation.episodes 8 --evaluation.batch-size 8": "runs above, with fewer conversations",
    "rxt evaluate companion --data hand_typed": "minutes; tests/cli runs it on a file of the same kind",
    "rxt evaluate runs/toy --data hand_typed": "minutes; tests/cli runs it on a file of the same kind",
    "rxt export runs/toy my_model": "needs a finished run; tests/cli and tests of export do it with a small one",
    "rxt export runs/mine my_model --average-with runs/before": "needs two runs; tests of export have small ones",
    "rxt convert RxT-Alpha-Micro/ runs/micro": _PUBLISHED,
    "rxt convert hf://owner/name runs/theirs": _PUBLISHED,
    "rxt data inspect sgd:dstc8-schema-guided-dialogue:dev": _PUBLISHED,
    "rxt benchmark --preset rxt_alpha_micro": "minutes; it would measure the machine of the tests",
    "rxt benchmark --preset toy --interactions 4 --steps 1": "minutes; it would measure the machine of the tests",
    "rxt compile-check configs/scale/v5e_8_dense_300m.py --topology v5e:2x4": "needs libtpu",
    "rxt compile-check configs/toy.py --topology cpu:8 --memory 16": "minutes; tests/cli compiles a small stage",
    "rxt train configs/scale/h100_8_dense_1b.py --data.source.path train.jsonl "
    "--data.evaluation-source.path held_out.jsonl": "needs eight GPUs",
    "rxt train recipe.py --coordinator 10.0.0.1:1234 --processes 2 --process 0": _SEVERAL,
    "rxt train recipe.py --coordinator 10.0.0.1:1234 --processes 2 --process 1": _SEVERAL,
    "rxt train recipe.py --folder gs://bucket/runs/mine --data.source.path gs://bucket/data/train.jsonl.gz "
    "--data.evaluation-source.path gs://bucket/data/held_out.jsonl": _BUCKET,
    "rxt evaluate gs://bucket/runs/mine --data gs://bucket/data/mine.jsonl": _BUCKET,
    "rxt export gs://bucket/runs/mine s3://other/models/mine": _BUCKET,
    "rxt chat s3://other/models/mine": _BUCKET,
    "rxt train configs/toy.py --profile 40:5": _TRAINS,
    "rxt tokenizer train FOLDER --data FILE --config.vocab-size 32000 --config.kind bpe": "needs a large text",
}


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


def test_every_command_is_run_or_has_a_reason_not_to_be():
    assert set(commands()) == {*RUN, *NOT_RUN}
    assert not RUN.keys() & NOT_RUN.keys()


@pytest.mark.slow
def test_commands_run_as_they_are_written(tmp_path, monkeypatch):
    from rxt_jax.cli.main import main
    from rxt_jax.data.dialogues import Dialogues, small

    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ROOT / "rxt_jax" / "companion", "runs/toy")
    dialogues = Dialogues(small())
    lines = "".join(json.dumps(dialogues.episode(number)) + "\n" for number in range(40))
    Path("chats").mkdir()
    for file in ("my_conversations.jsonl", "chats/part.jsonl", "FILE.jsonl"):
        Path(file).write_text(lines, encoding="utf-8")
    Path("conversation.jsonl").write_text("".join(lines.splitlines(keepends=True)[:2]), encoding="utf-8")
    for command, short in RUN.items():
        words = shlex.split(command.replace("FOLDER", "runs/toy").replace("FILE", "FILE.jsonl"))
        monkeypatch.setattr(sys, "stdin", io.StringIO("My cat is called Tom.\n"))
        try:
            code = main([*words[1:], *shlex.split(short)])
        except SystemExit as stop:  # --help
            code = stop.code
        assert code == 0, command
    assert Path("lengths.png").is_file() and Path("ready").is_dir() and Path("tokenizer").is_dir()
    assert Path("runs/companion/evaluation/memory/memory.png").is_file()
