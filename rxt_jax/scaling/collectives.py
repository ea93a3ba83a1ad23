"""What the devices of a compiled program send to each other: collectives with their bytes, loops counted as they run.

for kind, total in total_by_kind(collectives_of(compiled.as_text())).items(): ...
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from rxt_jax.scaling.hlo import Instruction, Program, Shape, read_program

__all__ = ["KINDS", "Collective", "CollectiveTotal", "collectives_of", "total_by_kind", "total_bytes"]

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Collective(NamedTuple):
    """A collective instruction as one device executes it.

    `bytes` are those of one execution: of the whole result for an all-gather, of what a device gives for all others.
    What an algorithm sends over the wires is a little less than that, for an all-reduce up to twice as much.
    """

    kind: str
    bytes: int
    times: int
    group: int
    """Devices that take part in it together."""
    shapes: tuple[Shape, ...]
    """Of its result, on one device."""
    name: str
    computation: str
    source: str
    """What was traced into it; see `Instruction.source`."""

    @property
    def executed_bytes(self) -> int:
        """Count the bytes of all executions."""
        return self.bytes * self.times


class CollectiveTotal(NamedTuple):
    """Collectives of one kind: instructions, executions, and bytes of all executions, on one device."""

    instructions: int
    times: int
    bytes: int


def collectives_of(program: Program | str) -> list[Collective]:
    """List the collectives of a compiled program, or of its text, that more than one device takes part in."""
    program = read_program(program) if isinstance(program, str) else program
    found = []
    for computation, instruction, times in program.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        inside = program.computations[computation]
        group = _group_size(instruction, program.devices)
        given = sum(shape.bytes for name in instruction.operands for shape in inside[name].shapes)
        if group > 1:
            found.append(
                Collective(
                    kind=kind,
                    bytes=given * group if kind == "all-gather" else given,
                    times=times,
                    group=group,
                    shapes=instruction.shapes,
                    name=instruction.name,
                    computation=computation,
                    source=instruction.source,
                )
            )
    return found


def total_by_kind(collectives: Iterable[Collective]) -> dict[str, CollectiveTotal]:
    """Add collectives up by kind, in the order of `KINDS`."""
    totals: dict[str, CollectiveTotal] = {}
    for each in sorted(collectives, key=lambda each: KINDS.index(each.kind)):
        before = totals.get(each.kind, CollectiveTotal(0, 0, 0))
        totals[each.kind] = CollectiveTotal(
            before.instructions + 1, before.times + each.times, before.bytes + each.executed_bytes
        )
    return totals


def total_bytes(collectives: Iterable[Collective]) -> int:
    """Add up the bytes of all executions of collectives."""
    return sum(each.executed_bytes for each in collectives)


def _group_size(instruction: Instruction, devices: int) -> int:
    """Read how many devices a collective joins: groups are listed, given as `[groups,size]<=[…]`, or, by JAX 0.11, as
    `mesh['data'=2,'fsdp'=4] {'fsdp'}`, the axes of a mesh that they run along, or a part of one: `{'fsdp':(1)2}`."""
    if "source_target_pairs=" in instruction.attributes:
        pairs = re.findall(
            r"\{(\d+),(\d+)\}", instruction.attributes.split("source_target_pairs=", 1)[1].split("}}")[0] + "}"
        )
        return 1 if all(source == target for source, target in pairs) else 2
    counted = re.search(r"replica_groups=\[(\d+(?:,\d+)*)\]<=", instruction.attributes)
    if counted is not None:
        return math.prod(int(size) for size in counted[1].split(",")[1:])
    along = re.search(r"replica_groups=mesh\[([^]]*)\]\s*\{([^}]*)\}", instruction.attributes)
    if along is not None:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", along[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", along[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", instruction.attributes)
    return devices if listed is None else len(listed[1].split(","))
