"""A stage-4 step and the way to the first one, of this version and of an earlier one, in one run.

    python benchmarks/stage4_step.py --before 9661e6f

The earlier commit is checked out beside this one (git worktree). Both versions are processes that wait for each other, so
that a step of one is followed by a step of the other and both see the same machine. Starts are whole processes, from
nothing to the end of the first update: the earlier version, this one with an empty compilation cache, and with a full one.
CPU seconds are what both cores worked; where others share them, they say more than seconds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

ROOT = Path(__file__).parent.parent

# Runs in both versions, so it uses only what both have. A line on standard input asks for a step.
CHILD = """
import json, resource, sys, time
import jax
from flax import nnx
try:
    from rxt_jax.cli.compilation_cache import use_compilation_cache
    use_compilation_cache()
except ImportError:
    pass
from rxt_jax.cli.benchmark import random_conversations
from rxt_jax.model import presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.stages import MemoryAware
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

preset, rows, interactions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = presets.PRESETS[preset]()
graphdef, params = nnx.split(build_model(config, 0))
stage = MemoryAware()
optimizer = make_optimizer(OptimizerConfig(), params, total_updates=1000, trainable=stage.trainable)
state = make_train_state(params, optimizer)
step = make_train_step(graphdef, stage, optimizer, seed=0)
batch = random_conversations(config.vocab_size, interactions, rows, config.max_length)
while True:
    began, worked = time.perf_counter(), time.process_time()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    total, count = (float(each) for each in metrics["loss"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts = {"seconds": seconds, "cpu_seconds": cpu_seconds, "since_start": time.process_time()}
    print(json.dumps(facts | {"loss": total / count, "peak_mib": peak}), flush=True)
    if not sys.stdin.readline():
        break
"""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    before: str
    """Commit of the earlier version."""
    preset: Literal["toy", "rxt_alpha_micro", "rxt_alpha_micro_plus"] = "rxt_alpha_micro"
    interactions: int = 4
    batch_size: int = 8
    steps: int = 6
    starts: int = 2
    """Starts of each kind; the fastest counts."""


class Version:
    """One process with one version of the package, from its start to the steps it is asked for."""

    def __init__(self, folder: Path, cache: Path, options: Options):
        sizes = [options.preset, str(options.batch_size), str(options.interactions)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
        environment |= {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(cache)}
        command = [sys.executable, "-c", CHILD, *sizes]
        pipe = subprocess.PIPE
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=folder)
        self.first = self._answer()
        self.start_seconds = time.perf_counter() - began

    def step(self) -> dict[str, float]:
        """Let it do one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the version under test ended; its message is above.")
        return json.loads(line)


def main(options: Options) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(before), options.before], check=True)
        try:
            print(json.dumps(measure(before, Path(scratch), options), indent=1))
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)


def measure(before: Path, scratch: Path, options: Options) -> dict[str, Any]:
    """Start everything in turn, then take steps in turn; the fastest of each counts."""
    starts: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.starts):
        cache = scratch / f"cache{number}"
        for name, folder in (("before", before), ("now", ROOT), ("now, compiled before", ROOT)):
            version = Version(folder, cache, options)
            version.stop()
            starts.setdefault(name, []).append((version.start_seconds, version.first["since_start"]))
    versions = {name: Version(folder, cache, options) for name, folder in (("before", before), ("now", ROOT))}
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    for _ in range(options.steps):
        for name, version in versions.items():
            steps[name].append(version.step())
    for version in versions.values():
        version.stop()
    facts: dict[str, Any] = {}
    for place, unit in enumerate(("seconds", "cpu_seconds")):
        facts[f"start, {unit}"] = {name: round(min(one[place] for one in found), 1) for name, found in starts.items()}
        all_steps = {name: [one[unit] for one in found] for name, found in steps.items()}
        for word, choose in (("best", min), ("median", statistics.median)):
            chosen = {name: round(choose(found), 3) for name, found in all_steps.items()}
            facts[f"step, {word}, {unit}"] = chosen | {"ratio": round(chosen["before"] / chosen["now"], 2)}
    facts["first loss"] = {name: version.first["loss"] for name, version in versions.items()}
    facts["peak MiB"] = {name: round(found[-1]["peak_mib"]) for name, found in steps.items()}
    return facts


if __name__ == "__main__":
    main(tyro.cli(Options))
