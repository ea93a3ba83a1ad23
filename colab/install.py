"""Install rxt_jax beside whatever a machine brings, and say clearly whether it worked. Imports nothing but Python's own.

Colab's images bring jax 0.7 and flax 0.11 (August 2026), older than this package needs. jax, jaxlib and the
accelerator's plug-in have to change together, before anything imports jax: after a bare upgrade of jax an old plug-in
stays behind, and everything runs on the CPU.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

__all__ = ["accelerator", "find_root", "install"]

EXTRAS = {"tpu": "[tpu]", "gpu": "[cuda12]", "cpu": ""}


def find_root(start: Path | None = None) -> Path:
    """Find the copy of the repository that a folder is in."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "configs" / "toy.py").is_file():
            return folder
    raise FileNotFoundError(
        f"{start} is not within a copy of the repository; upload or clone it, and open colab/ there."
    )


def accelerator() -> str:
    """Say what this machine has, `tpu`, `gpu` or `cpu`, without importing jax."""
    if any(Path("/dev").glob("accel*")) or "TPU_ACCELERATOR_TYPE" in os.environ or "COLAB_TPU_ADDR" in os.environ:
        return "tpu"
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def install(
    *,
    root: Path | None = None,
    imported: Collection[str] = sys.modules,
    pip: Callable[[list[str]], object] | None = None,
) -> Path:
    """Install the package and what fits the accelerator where it is missing; go to the repository and return it.

    Raises a `RuntimeError` where jax was imported before (restart the session), or sees another kind of device
    than the machine has.
    """
    root = root or find_root()
    if os.environ.get("COLAB_RELEASE_TAG"):
        if "jax" in imported:
            raise RuntimeError("jax was imported before the install cell: restart the session and run this cell first.")
        pip = pip or (lambda arguments: subprocess.run([sys.executable, "-m", "pip", *arguments], check=True))
        pip(["install", "--quiet", "--editable", f"{root}{EXTRAS[accelerator()]}"])
        sys.path.insert(0, str(root))  # an editable install is seen by new processes only
    os.chdir(root)
    check(accelerator())
    return root


def check(expected: str) -> None:
    """Raise a `RuntimeError` unless jax and flax have versions that the package accepts and jax sees the accelerator."""
    import importlib.metadata

    import jax
    from packaging.requirements import Requirement

    for requirement in map(Requirement, importlib.metadata.requires("rxt-jax") or ()):
        if requirement.name in ("jax", "flax") and requirement.marker is None:
            version = importlib.metadata.version(requirement.name)
            if version not in requirement.specifier:
                raise RuntimeError(
                    f"{requirement} is needed, {version} is installed: restart the session and run again."
                )
    found = jax.default_backend()
    if found != expected:
        raise RuntimeError(
            f"this machine has a {expected}, but jax {jax.__version__} runs on the {found}: restart the session and run "
            "the install cell first."
        )
    print(f"jax {jax.__version__} on {found}, {len(jax.local_devices())} device(s)")
