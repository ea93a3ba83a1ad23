"""Peak memory of start, stage change and resume: Mini on eight simulated devices, without a single update.

    PYTHONPATH=. python benchmarks/startup_memory.py [--before FOLDER]

`FOLDER` holds another version of `rxt_jax` to compare with (`git archive COMMIT rxt_jax | tar x -C FOLDER`). For every
version one process starts a run of two stages and another one resumes it in the second stage. Everything is that of
`rxt train` but the loop, which only saves. What is measured, each as a multiple of the train state (parameters and
moments, on all devices together):

* live buffers: the most that `jax.live_arrays()` held, looked at every few milliseconds;
* process: by how much resident memory rose above what it was before the model was made, at its peak. Simulated devices
  have the process's memory, so it is host and devices in one, with the temporary memory of compiled programs and with
  what Orbax reads. Programs come from JAX's compilation cache, as in every run of `rxt train` but the first one: what
  the compiler takes does not depend on the state. A run before the measured ones fills the cache.

A checkpoint is written from a copy on the host, while training goes on; `saving` shows that copy apart, and is over
before a stage changes. There `jax.live_arrays()` counts arrays and views of their parts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

PHASES = ("start", "saving", "stage change", "resume")


class Watch:
    """Peaks since the last `reset`, in bytes."""

    def __init__(self):
        self.reset()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def reset(self) -> None:
        self.live = 0
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak of resident memory

    def resident(self, name: str = "VmRSS") -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    def peak(self) -> dict[str, int]:
        self._count()
        return {"live": self.live, "resident": self.resident("VmHWM")}

    def _look(self) -> None:
        while not self._done.wait(0.003):
            self._count()

    def _count(self) -> None:
        import jax

        self.live = max(self.live, sum(map(bytes_of, jax.live_arrays())))


def bytes_of(array) -> int:
    """Count an array on all devices together: every copy of what is not split counts."""
    if array.is_deleted():
        return 0
    shape = array.sharding.shard_shape(array.shape)
    size = array.dtype.itemsize
    for dimension in shape:
        size *= dimension
    return size * len(array.sharding.device_set)


def measure(folder: Path) -> None:
    """Start or resume the run in `folder` and print the peaks of each phase."""
    import jax

    from rxt_jax import run as runs
    from rxt_jax.data.config import DataConfig
    from rxt_jax.data.tokenizer_training import TokenizerConfig
    from rxt_jax.model import presets
    from rxt_jax.recipe import Recipe, StageRun
    from rxt_jax.sharding import MeshConfig
    from rxt_jax.stages import MemoryAware
    from rxt_jax.train.loop import LoopResult

    stage = StageRun(stage=MemoryAware(), updates=2, batch_size=8)
    recipe = Recipe(
        name="startup_memory",
        folder=str(folder),
        model=presets.rxt_alpha_mini(),
        mesh=MeshConfig(data=1, fsdp=4, tensor=2),
        data=DataConfig(max_length=64),
        tokenizer=TokenizerConfig(vocab_size=10_000, texts=4000),
        stages={"first": stage, "second": stage},
    )
    watch, found, resumes = Watch(), {}, folder.exists()
    write_recipe, close = runs.write_recipe, runs.CheckpointStore.close

    def note_before(*arguments):
        write_recipe(*arguments)
        found["before"] = watch.resident()
        watch.reset()

    def note_written(store):
        close(store)
        if "start" in found and "saving" not in found:
            found["saving"] = watch.peak()
            watch.reset()

    def only_save(name, step, state, batches, *, start, updates, save, **_):
        jax.block_until_ready(state)
        phase = "resume" if resumes else "start" if name == "first" else "stage change"
        found[phase] = watch.peak()
        found["state"] = sum(map(bytes_of, jax.tree.leaves(state)))
        watch.reset()
        if not resumes:
            save(updates if name == "first" else 1, state, {})
        return LoopResult(state, name == "first", 0.0, 0.0, 0.0)

    runs.write_recipe, runs.run_loop, runs.CheckpointStore.close = note_before, only_save, note_written
    try:
        runs.run_recipe(recipe, quiet=True)
    finally:
        watch.stop()
    print(json.dumps(found))


def child(package: Path, folder: Path, cache: Path) -> dict:
    """Measure one process that imports `rxt_jax` from `package` and keeps compiled programs in `cache`."""
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # Give memory back to the system at once, so that resident memory is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, __file__, "--measure", str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder.parent, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="folder with another version of rxt_jax")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    here = Path(__file__).resolve().parent.parent
    versions = {"after": here} if options.before is None else {"before": options.before.resolve(), "after": here}
    print(
        "| version | phase | state MiB | live buffers MiB | × state | process MiB | × state |\n|---|---|---|---|---|---|---|"
    )
    for version, package in versions.items():
        with tempfile.TemporaryDirectory() as empty:
            cache, unmeasured, folder = (Path(empty) / name for name in ("cache", "unmeasured", "run"))
            child(package, unmeasured, cache)
            phases = [child(package, folder, cache), child(package, folder, cache)]
        for phase in PHASES:
            found = next(each for each in phases if phase in each)
            state, live = found["state"], found[phase]["live"]
            grown = found[phase]["resident"] - found["before"]
            mib = [f"{each / 2**20:,.0f}" for each in (state, live, grown)]
            print(
                f"| {version} | {phase} | {mib[0]} | {mib[1]} | {live / state:.2f} | {mib[2]} | {grown / state:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
