"""Compiled programs that are kept from one command to the next, in the user's cache folder."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

__all__ = ["cache_folder", "use_compilation_cache"]

# JAX keeps only what took a second; evaluation and chat consist of programs that take less.
_SHORTEST_SECONDS = 0.2
_MOST_BYTES = 2**30


def use_compilation_cache() -> Path | None:
    """Let JAX find again what it compiled before; return the folder, None where nothing was changed.

    JAX's own settings come first: `JAX_COMPILATION_CACHE_DIR` names another folder and `JAX_ENABLE_COMPILATION_CACHE=0`
    switches the cache off. A folder that cannot be written is not an error, only slower.
    Source: docs.jax.dev, persistent compilation cache.
    """
    settings: Any = jax.config
    if not settings.jax_enable_compilation_cache or settings.jax_compilation_cache_dir is not None:
        return None
    try:
        folder = cache_folder()
        # Programs in it are run as they are: nobody else may put one there.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_oldest(folder, _MOST_BYTES)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS)
    return folder


def cache_folder() -> Path:
    """Name the folder: the user's cache, and in it one folder per kind of processor.

    A home may be shared by machines, and a program compiled for one processor may contain instructions that another
    does not have.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return base / "rxt_jax" / "compiled" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), platform.processor(), *sorted({x for x in lines if x.startswith(wanted)})])


def _forget_oldest(folder: Path, most_bytes: int) -> None:
    """Delete what was written first until the rest is small enough; JAX alone would let it grow without end."""
    found = sorted(((file.stat(), file) for file in folder.glob("*-cache")), key=lambda pair: pair[0].st_mtime)
    size = sum(facts.st_size for facts, _ in found)
    for facts, file in found:
        if size <= most_bytes:
            return
        file.unlink(missing_ok=True)
        size -= facts.st_size
