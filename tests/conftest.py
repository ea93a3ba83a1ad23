"""Shared fixtures: eight simulated devices, full float32 products, jaxtyping annotations checked by beartype."""

import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path

from quick_flags import QUICK_FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The last but one is what `order_collectives` sets. A flag that is given from outside comes later and counts.
os.environ["XLA_FLAGS"] = (
    f"{QUICK_FLAGS} --xla_cpu_enable_concurrency_optimized_scheduler=false "
    + os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
)
# Many tests compile the same programs, and later runs compile them again. An environment variable, so that no process
# of a test looks into the user's own cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_default_matmul_precision", "highest")
# Tracing makes hundreds of thousands of objects, all of which live on: looking through them so often frees nothing.
gc.set_threshold(200_000, 20, 100)
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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Train one stage to its end, on one device, for all tests that need a finished run; give its recipe.

    The folder is shared: tests that write work on a copy (`copied_run`). Checkpoints are those of updates 2 and 4.
    """
    from small import small_recipe

    from rxt_jax import run
    from rxt_jax.sharding import make_mesh
    from rxt_jax.stages import InteractionSft
    from rxt_jax.train.loop import LoopConfig

    recipe = small_recipe(tmp_path_factory.mktemp("finished") / "run", {"sft": InteractionSft()})
    often = replace(recipe.stages["sft"], loop=LoopConfig(log_every=1, save_every=2))
    recipe = replace(recipe, stages={"sft": often})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        assert run.run_recipe(recipe, quiet=True)
    return recipe


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """Copy the finished run into the test's own folder; give the copy's recipe."""
    shutil.copytree(finished_run.run_folder, tmp_path / "run")
    return replace(finished_run, folder=str(tmp_path / "run"))
