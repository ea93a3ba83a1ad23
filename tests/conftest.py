"""Shared fixtures: eight simulated devices, full float32 products, jaxtyping annotations checked by beartype."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_default_matmul_precision", "highest")
# Most of the suite's time is compilation, and many tests compile the same small programs.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
# Every annotated shape in these packages is checked whenever a test traces the function.
install_import_hook(["rxt_jax.ops", "rxt_jax.nn", "rxt_jax.model", "rxt_jax.losses"], "beartype.beartype")
