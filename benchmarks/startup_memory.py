"""Peak memory of start, stage change and resume: Mini on eight simulated devices, without a single update.

    PYTHONPATH=. python benchmarks/startup_memory.py [--before FOLDER]

`FOLDER` holds another version of `rxt_jax` to compare with (`git archive COMMIT rxt_jax | tar x -C FOLDER`). One process
per version starts a run of two stages, changes from the first to the second, and goes on in the second. Everything is
that of `rxt train` but the loop, which only saves. What is measured, each as a multiple of the train state (parameters
and moments, on all devices together):

* live buffers: the most that the arrays of `jax.live_arrays()` held at any time, looked at every few milliseconds; a
  buffer that several arrays share counts once;
* process: by how much resident memory rose above what it was before the model was made. Simulated devices have the
  process's memory, so this is host and devices in one, with the temporary memory of programs and what Orbax reads. The
  same run is done once before it is measured, because what JAX and its compiler keep does not depend on the state.

Checkpoints are written from a copy on the host, so that training can go on meanwhile; `saving` shows that copy apart.
It is gone before the stage changes.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
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

    def peak(self) -> dict[str, int]:
        resident = resident_bytes("VmHWM")
        self.live = max(self.live, live_bytes())
        return {"live": self.live, "resident": resident}

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.live = max(self.live, live_bytes())


def resident_bytes(name: str = "VmRSS") -> int:
    """Read what the process holds now (`VmRSS`) or held at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def live_bytes() -> int:
    """Count the buffers of all arrays on all devices."""
    import jax

    return sum({pointer: size for array in jax.live_arrays() for pointer, size in buffers_of(array).items()}.values())


def buffers_of(array) -> dict[int, int]:
    """List an array's buffers and their sizes, none where it is given up meanwhile."""
    try:
        return {shard.data.unsafe_buffer_pointer(): shard.data.nbytes for shard in array.addressable_shards}
    except (RuntimeError, TypeError):  # an array without buffers cannot be iterated
        return {}


def measure() -> None:
    """Start and resume a run and print the peaks of each phase."""
    import jax

    from rxt_jax import run as runs
    from rxt_jax import run_stage
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
        model=presets.rxt_alpha_mini(),
        mesh=MeshConfig(data=1, fsdp=4, tensor=2),
        data=DataConfig(max_length=64),
        tokenizer=TokenizerConfig(vocab_size=10_000, texts=4000),
        stages={"first": stage, "second": stage},
    )
    watch, found = Watch(), {}
    write_recipe, close = runs.write_recipe, run_stage.CheckpointStore.close

    def note_before(*arguments):
        write_recipe(*arguments)
        gc.collect()
        found["before"] = resident_bytes()
        watch.reset()

    def note(phase):
        found[phase] = watch.peak()
        found[phase]["resident"] -= found["before"]
        watch.reset()

    def note_written(store):
        close(store)
        if "start" in found and "saving" not in found:
            note("saving")

    def only_save(name, step, state, batches, *, start, updates, save, **_):
        jax.block_until_ready(state)
        note("resume" if start else "start" if name == "first" else "stage change")
        found["state"] = sum(leaf.nbytes * replicas(leaf) for leaf in jax.tree.leaves(state))
        save(updates if name == "first" else start + 1, state, {})
        return LoopResult(state, name == "first", 0.0, 0.0, {"data": 0.0})

    runs.write_recipe, run_stage.run_loop, run_stage.CheckpointStore.close = note_before, only_save, note_written
    try:
        with tempfile.TemporaryDirectory() as empty:
            for name in ("unmeasured", "measured"):
                found.clear()
                for _ in range(2):
                    runs.run_recipe(replace(recipe, folder=f"{empty}/{name}"), quiet=True)
    finally:
        watch.stop()
    print(json.dumps(found))


def replicas(array) -> int:
    """Count how many devices have the same part of an array."""
    parts = array.size // max(1, array.addressable_shards[0].data.size)
    return len(array.sharding.device_set) // parts


def child(package: Path) -> dict:
    """Measure in a process that imports `rxt_jax` from `package`."""
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        # Give memory back to the system at once, so that resident memory is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, __file__, "--measure"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="folder with another version of rxt_jax")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    here = Path(__file__).resolve().parent.parent
    versions = {"after": here} if options.before is None else {"before": options.before.resolve(), "after": here}
    print(
        "| version | phase | state MiB | live buffers MiB | × state | process MiB | × state |\n|---|---|---|---|---|---|---|"
    )
    for version, package in versions.items():
        found = child(package)
        for phase in PHASES:
            sizes = found["state"], found[phase]["live"], found[phase]["resident"]
            state, live, grown = (f"{size / 2**20:,.0f}" for size in sizes)
            live_share, grown_share = (f"{size / sizes[0]:.2f}" for size in sizes[1:])
            print(f"| {version} | {phase} | {state} | {live} | {live_share} | {grown} | {grown_share} |", flush=True)


if __name__ == "__main__":
    main()
