"""Several processes of one run: how they find each other, who writes, what they agree on, and how they end.

Every process runs the same program on devices of its own, and all of them together make one mesh. Process 0 alone
writes what is one for the run; checkpoints are written by all, each its part. With one process everything here is a
formality. Source: docs.jax.dev, multi-process JAX.
"""

import itertools
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = [
    "CompiledTogether",
    "agree",
    "end_together",
    "gather",
    "is_writer",
    "order_collectives",
    "said_by_writer",
    "start_processes",
    "wait_for_all",
]

_A_DAY = 24 * 3600
_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler"
_barriers = itertools.count()
_BAD_INPUT = (ValueError, FileNotFoundError, FileExistsError)


def start_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> tuple[int, int]:
    """Join the other processes of a run, before anything asks for a device; return this one's number and their count.

    coordinator: HOST:PORT of process 0, reachable from all of them. processes: how many there are. process: which one
    this is, from 0. All three are given, or none: then TPU pods, SLURM and Open MPI say it themselves, and where
    nobody does this process is alone. Raises a `ValueError` for anything between.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        assert coordinator is not None and processes is not None and process is not None
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"--coordinator must be HOST:PORT of process 0, got {coordinator!r}.")
        if processes < 1 or not 0 <= process < processes:
            raise ValueError(f"--process must lie in [0, --processes), got {process} of {processes} processes.")
        _join(coordinator, processes, process, cluster_detection_method="deactivate")
    elif len(missing) < len(given):
        raise ValueError(f"{', '.join(given)} go together: {', '.join(missing)} not given. Give all three, or none.")
    elif _has_launcher():
        _join()
    elif _is_tpu_machine():
        try:
            _join()
        except ValueError:  # no pod, a single machine with a TPU
            return 0, 1
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        # A program that one process reads back and another compiles may have another order in each.
        jax.config.update("jax_enable_compilation_cache", False)
    return jax.process_index(), jax.process_count()


def _join(*given: Any, **named: Any) -> None:
    order_collectives()
    jax.distributed.initialize(*given, **named)


def order_collectives() -> None:
    """Let several devices of the CPU work through a program in one order. Call it before anything asks for a device.

    Otherwise XLA runs what does not depend on each other at the same time. A collective holds a thread until the other
    devices are there, and one device may be in another collective than the rest: then all wait for ever. Seen with
    jaxlib 0.10.2 in held-out evaluation. A flag of the user's own counts; other platforms do not look at this one.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _ORDER not in flags:
        os.environ["XLA_FLAGS"] = f"{_ORDER}=false {flags}".strip()


def _has_launcher() -> bool:
    """Tell whether a launcher started several processes of which this is one."""
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    # Inside an allocation, but not started by srun, there is one process whatever the allocation has room for.
    return "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1


def _is_tpu_machine() -> bool:
    on_cpu = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    return not on_cpu and any(os.path.exists(place) for place in ("/dev/accel0", "/dev/vfio/0"))


def is_writer() -> bool:
    """Tell whether this process writes what is one for the run: recipe, metrics, reports."""
    return jax.process_index() == 0


def agree(value: bool) -> bool:
    """Return whether `value` holds in all processes. All of them have to ask."""
    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def said_by_writer(value: Any) -> Any:
    """Return what process 0 says, a JSON value. All processes have to ask; what the others say is not heard."""
    if jax.process_count() == 1:
        return value
    said = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_writer() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(said.size)))
    padded = np.zeros(size, np.uint8)
    padded[: said.size] = said
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)).decode())


def gather(array: jax.Array) -> np.ndarray:
    """Return the whole of an array, which other processes may have parts of. All of them have to ask."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def wait_for_all(name: str) -> None:
    """Wait until all processes are here, for as long as a day. `name` is what they wait for."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        # A barrier of the coordinator: one among the devices would give up after a few minutes. Names are used once.
        name = f"{name} {next(_barriers)}"
        multihost.sync_global_processes(name, timeout=_A_DAY, processes=set(range(jax.process_count())))


class CompiledTogether:
    """A jitted function that no process calls before all of them have compiled it.

    One may find the program in its cache where another compiles for a minute: it would wait within a collective, and
    those between CPUs give up after 30 seconds. With one process it is the function itself.
    """

    def __init__(self, jitted: Any, name: str):
        self._jitted, self._name = jitted, name
        self._compiled: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        if jax.process_count() == 1:
            return self._jitted(*arguments)
        leaves, structure = jax.tree.flatten(arguments)
        key = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._compiled:
            self._compiled[key] = self._jitted.lower(*arguments).compile()
            wait_for_all(f"{self._name} is compiled")
        return self._compiled[key](*arguments)

    def lower(self, *arguments: Any) -> Any:
        """Lower for inspection or for compiling ahead of time."""
        return self._jitted.lower(*arguments)


@contextmanager
def end_together(program: str) -> Iterator[None]:
    """End this process at once where it fails among several, so that none waits for another that is not coming back.

    The way out that Python takes waits for all processes. Who works alone gets the exception as it is.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        place = f"{program}, process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, jax.errors.JaxRuntimeError):
            reason = str(error).strip().splitlines() or [type(error).__name__]
            print(
                f"{place}: cannot go on, most likely because another process has ended: {reason[0][:300]}\n"
                f"Start all processes again with the same command: it goes on from the newest checkpoint.",
                file=sys.stderr,
            )
        elif isinstance(error, KeyboardInterrupt):
            print(f"{place}: interrupted without a checkpoint; SIGTERM stops all of them with one", file=sys.stderr)
        elif isinstance(error, _BAD_INPUT) and not os.environ.get("RXT_TRACEBACK"):
            print(f"{place}: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2 if isinstance(error, _BAD_INPUT) else 1)
