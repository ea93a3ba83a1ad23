"""Names of topologies, `v5e:2x4` or `cpu:8`: what the environment needs before JAX is imported, and the devices.

Nothing here imports JAX before it is asked for devices. Source: docs.jax.dev, ahead-of-time lowering.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Topology", "parse_topology"]

_GIB = 2**30
# What a program may use of a device's memory: the makers' figures less what the runtime keeps.
_MEMORY_GIB = {"v4": 30.75, "v5e": 15.75, "v5p": 95.0, "v6e": 31.25}


@dataclass(frozen=True)
class Topology:
    """Devices of a kind in a shape, which may be simulated (`cpu`) or described by libtpu."""

    kind: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def size(self) -> int:
        """How many devices it has."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def memory_bytes(self) -> int | None:
        """Memory of a device, None where it is not known."""
        gib = _MEMORY_GIB.get(self.kind)
        return None if gib is None else int(gib * _GIB)

    def environment(self) -> dict[str, str]:
        """Return the variables of a process that compiles for it."""
        changed = {"JAX_PLATFORMS": "cpu"}
        if self.kind == "cpu":
            flags = os.environ.get("XLA_FLAGS", "")
            return changed | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={self.size}".strip()}
        # libtpu asks the machine what it is, unless it is told. The topology itself is named later.
        return changed | {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-8",
            # One process may have a TPU. None is used here, so several may compile at a time.
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }

    def devices(self) -> list[Any]:
        """Return the devices, in the process that has this environment."""
        import jax

        if self.kind == "cpu":
            return jax.devices()[: self.size]
        from jax.experimental import topologies

        try:
            described = topologies.get_topology_desc(platform="tpu", topology_name=self.name)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{self.name} cannot be described: {reason[:200]}. It needs libtpu of the version that belongs to JAX "
                f'(pip install "rxt-jax[aot]") and a shape that exists, such as v5e:2x4, v6e:2x4 or v5p:2x4x4.'
            ) from error
        return list(described.devices)


def parse_topology(text: str) -> Topology:
    """Read the name of a topology."""
    found = re.fullmatch(r"(cpu|v4|v5e|v5p|v6e):(\d+(?:x\d+)*)", text)
    if found is None:
        kinds = ", ".join(("cpu", *_MEMORY_GIB))
        raise ValueError(f"--topology must be KIND:SHAPE such as v5e:2x4 or cpu:8, of {kinds}; got {text!r}.")
    shape = tuple(int(length) for length in found[2].split("x"))
    if min(shape) < 1:
        raise ValueError(f"--topology {text}: every length must be at least 1.")
    return Topology(found[1], shape)
