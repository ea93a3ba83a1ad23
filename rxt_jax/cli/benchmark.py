"""`rxt benchmark`: how fast a stage-4 step is, as a share of the device's peak.

The peak is the maker's figure for bfloat16 where it is known and the model computes in it (so the share is the `mfu` of
a training run), else what a large matrix product of the same type reaches.

`rxt benchmark mrq RUN` and `rxt benchmark memory RUN` measure a model instead and have files of their own.
"""

import dataclasses
import importlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from rxt_jax.cli.options import parse
from rxt_jax.model import ModelConfig, presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.model.operation_count import device_peak, episode_operations
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.ops.attention import AttentionImplementation
from rxt_jax.stages import MemoryAware
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import EpisodeBatch

__all__ = ["BenchmarkOptions", "best_time", "random_conversations", "run"]

_OF_RUNS = {"memory": "rxt_jax.cli.benchmark_memory", "mrq": "rxt_jax.cli.benchmark_mrq"}


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Time one stage-4 step on random conversations."""

    preset: str = "rxt_alpha_micro"
    """Model to time, a name of `rxt_jax.model.presets`."""
    interactions: tuple[int, ...] = (4, 8)
    """Lengths of the conversations, one measurement each: the cost of a token should not depend on them."""
    batch_size: int = 4
    """Conversations at once."""
    length: int | None = None
    """Tokens of an interaction; without it the preset's."""
    steps: int = 3
    """Steps that are timed, after one that compiles."""
    remat: str = "full"
    """What of what writes memory is kept for the gradient: none (all of it), full (nothing), names or offload."""
    layer_remat: str = "none"
    """The same of every layer."""
    interactions_per_call: int = 1
    """Interactions that one call of encoder or decoder reads."""
    attention: AttentionImplementation = "auto"
    """What computes attention; "auto" takes the device's kernel where it serves."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("batch_size", "length", "steps", "interactions_per_call")}
        counts |= {"interactions": min(self.interactions, default=0)}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {count}.")


def matrix_product_peak(dtype: str = "float32", size: int = 2048, repeats: int = 5) -> float:
    """Measure this machine's matrix products, operations per second."""
    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    return 2.0 * size**3 / best_time(lambda: multiply(x, x), repeats)


def run(arguments: Sequence[str]) -> int:
    """Measure and print, or hand over to the benchmark of a run that the first argument names."""
    if arguments and arguments[0] in _OF_RUNS:
        return importlib.import_module(_OF_RUNS[arguments[0]]).run(arguments[1:])
    options = parse(BenchmarkOptions, arguments, "rxt benchmark")
    if options.preset not in presets.PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(presets.PRESETS)}, got {options.preset!r}.")
    config = replace(presets.PRESETS[options.preset](), dtype=options.dtype, remat=options.layer_remat)
    config = _with_attention(config, options.attention)
    length = options.length or config.max_length
    device = jax.devices()[0]
    known = device_peak(device.device_kind) if options.dtype == "bfloat16" else None
    peak = matrix_product_peak(options.dtype) if known is None else known
    results = [_measure(config, length, count, options, peak) for count in options.interactions]
    facts = {"preset": options.preset, "device": device.device_kind, "peak_gflops": peak / 1e9, "results": results}
    if options.json:
        print(json.dumps(facts))
        return 0
    console = Console()
    origin = "measured" if known is None else "the maker's"
    title = (
        f"stage 4, {options.preset}, {options.dtype}, {device.device_kind}: peak {peak / 1e9:,.0f} GFLOP/s, {origin}"
    )
    table = Table(title=title)
    for name in ("interactions", "compile s", "step ms", "tokens/s", "GFLOP/s", "share of peak", "peak memory MiB"):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(
            str(one["interactions"]),
            f"{one['compile_seconds']:.1f}",
            f"{1000 * one['step_seconds']:.0f}",
            f"{one['tokens_per_second']:,.0f}",
            f"{one['gflops']:.0f}",
            f"{100 * one['share_of_peak']:.0f} %",
            f"{one['peak_memory_mib']:,.0f}",
        )
    console.print(table)
    return 0


def _measure(config: ModelConfig, length: int, count: int, options: BenchmarkOptions, peak: float) -> dict[str, float]:
    graphdef, params = nnx.split(build_model(config, 0))
    stage = MemoryAware(remat=options.remat, interactions_per_call=options.interactions_per_call)
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=1000, trainable=stage.trainable)
    state = make_train_state(params, optimizer)
    step = make_train_step(graphdef, stage, optimizer, seed=0)
    batch = random_conversations(config.vocab_size, count, options.batch_size, length)
    began = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    compile_seconds = time.perf_counter() - began

    def once() -> object:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    seconds = best_time(once, options.steps)
    tokens = count * options.batch_size * length
    flops = episode_operations(
        config,
        rows=options.batch_size,
        interactions=count,
        length=length,
        scored_tokens=int(np.sum(batch.loss_mask[..., 1:])),
    )
    return {
        "interactions": count,
        "compile_seconds": compile_seconds - seconds,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "gflops": flops / seconds / 1e9,
        "share_of_peak": flops / seconds / peak,
        "peak_memory_mib": _peak_memory() / 2**20,
    }


def _peak_memory() -> int:
    """Return the most bytes that the device had in use so far; of a CPU the process's."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _with_attention(config: Any, implementation: AttentionImplementation) -> Any:
    """Give every attention of a tree of configurations this implementation."""
    if isinstance(config, AttentionConfig):
        return replace(config, implementation=implementation)
    if isinstance(config, tuple):
        return tuple(_with_attention(each, implementation) for each in config)
    if not dataclasses.is_dataclass(config):
        return config
    changed = {
        each.name: _with_attention(getattr(config, each.name), implementation) for each in dataclasses.fields(config)
    }
    return replace(config, **changed)  # pyright: ignore[reportArgumentType]


def best_time(function: Callable[[], object], repeats: int) -> float:
    """Time the fastest of several calls, in seconds, after one that may compile."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times)


def random_conversations(vocab_size: int, count: int, rows: int, length: int) -> EpisodeBatch:
    """Make conversations of random tokens, the second half of every row an answer."""
    rng = np.random.default_rng(0)
    ids = rng.integers(11, vocab_size, (count, rows, length)).astype(np.int32)
    whole = np.ones(ids.shape, bool)
    loss_mask = np.broadcast_to(np.arange(length) >= length // 2, ids.shape).copy()
    return EpisodeBatch(ids, whole, loss_mask, np.ones(ids.shape[:2], bool))
