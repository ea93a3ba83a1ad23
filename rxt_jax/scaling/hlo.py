"""The text of a compiled program: its instructions, and how often a device executes each of them.

    program = read_program(jax.jit(f).lower(x).compile().as_text())
    for instruction, times in program.executed(): ...

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs: as often as XLA knows,
else as the constant that the loop's condition compares with. Source: the HLO text format of openxla/xla.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Instruction", "Program", "Shape", "read_program"]

_ITEM_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_FOLLOWED = ("while", "call", "fusion", "conditional", "async-start", "custom-call")

_SHAPE = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,<=]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
_DEFINITION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_TRIP_COUNT = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)')
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)"
    r"=(\{[^}]*\}|%[\w.\-]+)"
)


class Shape(NamedTuple):
    """An array on one device: the name of its type in HLO, and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Count its elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Count its bytes, without padding."""
        bits = _ITEM_BITS.get(self.dtype)
        if bits is None:
            width = re.match(r"[a-z]+(\d+)", self.dtype)
            if width is None:
                raise ValueError(f"unknown type {self.dtype!r} in the text of a program; expected one like f32 or s8.")
            bits = int(width[1])
        return -(-self.size * bits // 8)


class Instruction(NamedTuple):
    """One line of a program. Operands are names of instructions of the same computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several for a tuple
    operands: tuple[str, ...]
    arguments: str  # what stands in the parentheses
    attributes: str  # what stands behind them
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """Return the value of an attribute such as `dimensions={0}`, without its braces; None where it is missing."""
        found = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]+)", self.attributes)
        return None if found is None else found[1].strip("{}")

    @property
    def source(self) -> str:
        """Say what was traced into it, such as `jit(step)/transpose(jvp())/dot_general`; empty where XLA made it."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return "" if found is None else found[1]

    @property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Name the computations that it calls, by attribute."""
        return {name: tuple(_NAME.findall(value)) for name, value in _CALLED.findall(self.attributes)}


class Program(NamedTuple):
    """All computations of a program, each its instructions by name, in the order of the text."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    devices: int  # that run it together

    def executed(self) -> Iterator[tuple[str, Instruction, int]]:
        """Yield computation, instruction and how often a device executes it.

        Of a conditional every branch counts as taken, and a loop of unknown length (`unknown_loops`) as one round.
        What reductions, sorts and scatters apply to their elements is left out.
        """
        yield from self._walk(self.entry, 1)

    def unknown_loops(self) -> tuple[str, ...]:
        """Name the loops whose number of rounds the text does not say: those that end when data wants it."""
        loops = (each for _, each, _ in self.executed() if each.opcode == "while")
        return tuple(loop.name for loop in loops if self.rounds(loop) is None)

    def rounds(self, loop: Instruction) -> int | None:
        """Return how often the body of a `while` runs, None where the text does not say."""
        known = _TRIP_COUNT.search(loop.attributes)
        if known is not None:
            return int(known[1])
        (condition,) = loop.called["condition"]
        reachable = [condition, *(name for each in self.computations[condition].values() for name in _all(each.called))]
        inside = [each for name in reachable for each in self.computations[name].values()]
        compares = [each for each in inside if each.opcode == "compare"]
        limits = [int(each.arguments) for each in inside if each.opcode == "constant" and _is_integer(each)]
        if len(compares) != 1 or len(limits) != 1 or compares[0].attribute("direction") != "LT":
            return None
        return limits[0]

    def _walk(self, computation: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        for instruction in self.computations[computation].values():
            yield computation, instruction, times
            if instruction.opcode not in _FOLLOWED:
                continue
            called = instruction.called
            inner = times
            if instruction.opcode == "while":
                inner, called = times * (self.rounds(instruction) or 1), {"body": called["body"]}
            for name in _all(called):
                yield from self._walk(name, inner)


@functools.lru_cache(maxsize=4)
def read_program(text: str) -> Program:
    """Read the text of an optimised module (`compiled.as_text()`); anything else is an error that shows the line."""
    if not text.startswith("HloModule"):
        raise ValueError(f"expected the text of a compiled program, 'HloModule …', got {text[:40]!r}.")
    head = text.split("\n", 1)[0]
    counts = [re.search(rf"\b{name}=(\d+)", head) for name in ("num_partitions", "replica_count")]
    computations: dict[str, dict[str, Instruction]] = {}
    current, entry = None, None
    for line in text.splitlines()[1:]:
        if current is None:
            header = _HEADER.match(line)
            if header is not None:
                current = computations[header[2]] = {}
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            instruction = _read_instruction(line)
            if instruction is not None:
                current[instruction.name] = instruction
    if entry is None:
        raise ValueError("expected the text of a compiled program, but it has no ENTRY computation.")
    return Program(computations, entry, math.prod(int(count[1]) for count in counts if count is not None))


def _read_instruction(line: str) -> Instruction | None:
    definition = _DEFINITION.match(line)
    if definition is None:
        return None
    line = re.sub(r"/\*.*?\*/", "", line[definition.end() :])
    end = _closing(line, 0) if line.startswith("(") else line.index(" ")
    kind, rest = line[:end], line[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing - 1]
    shapes = tuple(
        Shape(dtype, tuple(int(each.lstrip("<=")) for each in dims.split(",") if each))
        for dtype, dims in _SHAPE.findall(re.sub(r"\{[^}]*\}", "", kind))
    )
    return Instruction(
        name=definition[2],
        opcode=rest[:opening],
        shapes=shapes,
        operands=tuple(_NAME.findall(arguments)),
        arguments=arguments,
        attributes=rest[closing:],
        is_root=definition[1] is not None,
    )


def _closing(text: str, opening: int) -> int:
    """Return the place behind the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"a parenthesis is not closed in a line of a program: {text[:120]!r}.")


def _all(called: dict[str, tuple[str, ...]]) -> Iterator[str]:
    return (name for names in called.values() for name in names)


def _is_integer(constant: Instruction) -> bool:
    return constant.shapes[0].dtype in ("s32", "s64", "u32") and constant.arguments.lstrip("-").isdigit()
