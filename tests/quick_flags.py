"""XLA flags for tests: most of their time is compilation, and programs that run a few times on a few rows need no
optimised machine code.

A train step of a small model compiles in two thirds of the time, which hundreds of updates do not use up again, and in
two fifths of that without the MLIR emitters of fused loops (jaxlib 0.11 has no others) and in one piece.
"""

from importlib.metadata import version

__all__ = ["QUICK_FLAGS"]

_EMITTERS = ("--xla_cpu_use_fusion_emitters=false",) if version("jaxlib").startswith("0.10.") else ()
QUICK_FLAGS = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        *_EMITTERS,
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)
