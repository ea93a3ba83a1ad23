"""Shared fixtures: eight simulated devices, full float32 products, jaxtyping annotations checked by beartype."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Most of the suite's time is compilation, and many tests compile the same small programs. An environment variable, so
# that no process of a test looks into the user's own cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_default_matmul_precision", "highest")
# Every annotated shape in these packages is checked whenever a test traces the function.
install_import_hook(["rxt_jax.ops", "rxt_jax.nn", "rxt_jax.model", "rxt_jax.losses"], "beartype.beartype")

# Linux gives a process 65,530 memory maps. Every compiled program takes some, and XLA dies without a word beyond.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 16_000


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_given_up():
    """Forget what earlier modules compiled before the process has no room for more; the disk cache still has it."""
    yield
    if _MAPS.is_file() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()
