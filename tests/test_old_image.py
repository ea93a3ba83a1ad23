"""The install cell on what Colab's images bring: Python 3.13 with a jax and a flax that are older than we need."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROUGHT = ("jax==0.7.2", "flax==0.11.2")
"""What the images of August 2026 have (CPU, GPU and TPU alike)."""

UNREACHABLE = ("ReadTimeoutError", "NewConnectionError", "ConnectionResetError", "ProtocolError")
"""What pip says where the network fails."""

TALK = """
import jax, flax, rxt_jax
print("versions", jax.__version__, flax.__version__)
print("model ", rxt_jax.open_session("companion").answer("Hello."))
"""


def find_python():
    """Find a Python 3.13 that can make environments."""
    installed = sorted(map(str, Path.home().glob(".pyenv/versions/3.13*/bin/python3.13")))
    for candidate in ("python3.13", *installed):
        question = "import ensurepip, sys; print(*sys.version_info[:2])"
        try:
            answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True)
        except FileNotFoundError:
            continue
        if answer.stdout.split() == ["3", "13"]:
            return candidate
    return None


def copy_of_the_repository(folder):
    """Copy what an install needs: an editable one writes beside the package."""
    for name in ("rxt_jax", "colab", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


@pytest.fixture
def image(tmp_path):
    """The Python of a fresh environment like that of the images; more than a gigabyte, so nothing of it stays."""
    python, folder = find_python(), tmp_path / "image"
    if python is None:
        pytest.skip("there is no Python 3.13 here, which Colab has")
    try:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        own = str(folder / "bin" / "python")
        brought = subprocess.run([own, "-m", "pip", "install", "--quiet", *BROUGHT], capture_output=True, text=True)
        if brought.returncode:
            pytest.skip(f"{' '.join(BROUGHT)} cannot be fetched: {brought.stderr.strip().splitlines()[-1]}")
        yield own
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_install_cell_replaces_what_the_image_brings(image, tmp_path):
    copy = tmp_path / "rxt_jax"
    copy_of_the_repository(copy)
    notebook = json.loads((ROOT / "colab" / "inside_memory.ipynb").read_text(encoding="utf-8"))
    cell = next("".join(each["source"]) for each in notebook["cells"] if each["cell_type"] == "code")

    def run(code):
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
        environment |= {"COLAB_RELEASE_TAG": "release", "JAX_ENABLE_COMPILATION_CACHE": "0"}
        command = [image, "-c", code]
        return subprocess.run(command, cwd=copy / "colab", env=environment, capture_output=True, text=True)

    versions = run("import jax, flax; print(jax.__version__, flax.__version__)")
    assert versions.stdout.split() == ["0.7.2", "0.11.2"], versions.stderr
    # Too late: the old jax is in memory and stays there.
    late = run(f"import jax\n{cell}")
    assert late.returncode == 1 and "restart the session and run this cell first" in late.stderr
    first = run(f"{cell}\n{TALK}")
    if first.returncode and any(sign in first.stderr for sign in UNREACHABLE):
        pytest.skip("the package index went away in the middle of the installation")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    jax, flax = next(line for line in lines if line.startswith("versions")).split()[1:]
    assert tuple(map(int, jax.split(".")[:2])) >= (0, 10) and tuple(map(int, flax.split(".")[:2])) >= (0, 12)
    assert any(line.startswith(f"jax {jax} on ") for line in lines)
    assert len(next(line for line in lines if line.startswith("model "))) > len("model  ")
