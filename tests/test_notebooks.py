"""The notebooks in colab/: short, without outputs, equal to their .py files, and each runs from top to bottom."""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import install
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "colab").glob("*.ipynb"))


def read(name):
    return json.loads((ROOT / "colab" / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_there_are_notebooks():
    assert {"train_toy", "your_own_data", "preferences_and_rewards", "inside_memory"} == set(NOTEBOOKS)


def test_every_notebook_is_a_page_of_the_site():
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        assert f"\ncolab/{name}\n" in page and f"(../colab/{name}.ipynb)" in page


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_short_and_has_no_outputs(name):
    notebook = read(name)
    assert len(notebook["cells"]) < 15
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    # The install cell comes before anything that imports jax.
    assert "install()" in "".join(code[0]["source"]) and "jax\n" not in "".join(code[0]["source"]).split("# First")[0]
    assert notebook["metadata"]["accelerator"] == "TPU"
    assert notebook["metadata"]["colab"]["gpuType"] == "V5E1"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_equals_its_python_file(name):
    jupytext = pytest.importorskip("jupytext", reason="needs the group `dev`")
    paired = jupytext.read(ROOT / "colab" / f"{name}.py")
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in read(name)["cells"]]
    assert [(cell.cell_type, cell.source) for cell in paired.cells] == cells


def test_the_install_cell_takes_what_fits_the_accelerator(monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "toy.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.setattr(install, "check", lambda expected: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for kind, extra in (("tpu", "[tpu]"), ("gpu", "[cuda12]"), ("cpu", "")):
        monkeypatch.setattr(install, "accelerator", lambda kind=kind: kind)
        asked = []
        assert install.install(imported=(), pip=asked.append) == tmp_path
        assert asked == [["install", "--quiet", "--editable", f"{tmp_path}{extra}"]]
    with pytest.raises(RuntimeError, match="restart the session"):
        install.install(imported=("jax",), pip=asked.append)
    assert len(asked) == 1


def test_the_install_cell_says_what_does_not_fit(capsys, monkeypatch):
    install.check("cpu")
    assert "on cpu" in capsys.readouterr().out
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.7.2")
    with pytest.raises(RuntimeError, match=r"is needed, 0\.7\.2 is installed"):
        install.check("cpu")
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match=r"this machine has a tpu, but jax .* runs on the cpu"):
        install.check("tpu")


def test_outside_a_copy_of_the_repository_the_install_cell_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="not within a copy of the repository"):
        install.find_root(tmp_path)
    assert install.find_root(ROOT / "colab") == ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs the group `dev`")
    nbformat = pytest.importorskip("nbformat", reason="needs the group `dev`")
    monkeypatch.setenv("RXT_NOTEBOOK_SIZE", "small")
    monkeypatch.setenv("RXT_NOTEBOOK_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the devices of a user, not those of the tests
    notebook = nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)
    context = {"metadata": {"path": str(ROOT / "colab")}}
    nbclient.NotebookClient(notebook, timeout=900, resources=context).execute()
    last = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    assert last.count("model ") >= 2
