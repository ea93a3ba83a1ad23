"""What commands compile is kept for the next one, in the user's own cache, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from rxt_jax.cli import compilation_cache
from rxt_jax.cli.compilation_cache import cache_folder, use_compilation_cache

ROOT = Path(__file__).parent.parent.parent
SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")

PROGRAM = """
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **facts: hits.append(name) if name.endswith("cache_hits") else None)
from rxt_jax.cli.compilation_cache import use_compilation_cache
print(use_compilation_cache() is not None)
jax.jit(lambda x: x * 2 + 1)(3.0).block_until_ready()
print(len(hits))
"""


@pytest.fixture
def nothing_set(monkeypatch, tmp_path):
    """JAX as a user without any settings has it, and an empty cache folder."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_tests_use_a_cache_of_their_own():
    assert Path(jax.config.jax_compilation_cache_dir) == ROOT / ".pytest_cache" / "jax"
    assert use_compilation_cache() is None


def test_the_folder_is_the_users(nothing_set, monkeypatch):
    folder = use_compilation_cache()
    assert folder is not None and folder.is_relative_to(nothing_set / "rxt_jax")
    assert folder.stat().st_mode & 0o077 == 0
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 1.0
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder().is_relative_to("/somewhere/.cache/rxt_jax")


def test_it_can_be_switched_off(nothing_set):
    jax.config.update("jax_enable_compilation_cache", False)
    assert use_compilation_cache() is None
    assert not list(nothing_set.iterdir())


def test_a_folder_that_cannot_be_made_is_no_error(nothing_set, monkeypatch):
    (nothing_set / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(nothing_set / "file"))
    assert use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_it_does_not_grow_without_end(nothing_set, monkeypatch):
    folder = cache_folder()
    folder.mkdir(parents=True)
    for age in range(5):
        file = folder / f"{age}-cache"
        file.write_bytes(b"x" * 10)
        os.utime(file, (1000 - age, 1000 - age))
    monkeypatch.setattr(compilation_cache, "_MOST_BYTES", 25)
    assert use_compilation_cache() == folder
    assert sorted(file.name for file in folder.iterdir()) == ["0-cache", "1-cache"]


def test_the_next_process_finds_what_the_first_compiled(tmp_path):
    unset = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    wanted = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", PROGRAM]
    printed = [
        subprocess.run(command, env=unset | wanted, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert printed[0] == ["True", "0"]
    assert printed[1][0] == "True" and int(printed[1][1]) >= 1
