"""Four signs of traffic that nobody asked for, read from a compiled step.

A partitioner that is not told where an activation lives may gather it from all devices, and nothing fails: the step is
only slow. Collectives of a step ought to move parameters and their gradients, and little else.
"""

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from rxt_jax.scaling import Collective, total_bytes

__all__ = ["Check", "Messages", "check_collectives", "kept_messages"]

_FORCED = "Involuntary full rematerialization"  # what the partitioner writes when it gathers an array to split it anew


class Check(NamedTuple):
    """One sign: what should be true, whether it is, and what was found."""

    name: str
    passed: bool
    found: str


class Messages:
    """What a compiler wrote to standard error; complete behind the `with` of `kept_messages`."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def kept_messages() -> Iterator[Messages]:
    """Keep what libraries write to standard error, and pass it on at the end.

    The compiler is not written in Python, so that the file descriptor itself has to point elsewhere meanwhile.
    """
    messages = Messages()
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(real, 2)
            os.close(real)
            kept.seek(0)
            messages.text = kept.read().decode(errors="replace")
            sys.stderr.write(messages.text)
            sys.stderr.flush()


def check_collectives(
    collectives: Sequence[Collective],
    parameters: Any,
    *,
    rows: int,
    messages: str,
    budget: float | None = None,
) -> list[Check]:
    """Check the collectives of a step of `rows` rows on all devices together.

    `parameters` is any pytree of shapes with shardings; `budget` the most bytes that a device may give and get in an
    update, in float32 parameters of the whole model, None = as many as it likes; `messages` what the compiler wrote.
    """
    leaves = jax.tree.leaves(parameters)
    sizes = _sizes_of_parameters(leaves)
    gathers = [each for each in collectives if each.kind == "all-gather"]
    foreign = [each for each in gathers if any(shape.size not in sizes for shape in each.shapes)]
    others = [each for each in collectives if each not in foreign]
    whole = [
        each for each in others if any(_carries(shape.dims, rows) and shape.size not in sizes for shape in each.shapes)
    ]
    of_parameters = total_bytes(collectives) / sum(4 * math.prod(leaf.shape) for leaf in leaves)
    forced = messages.count(_FORCED)
    checks = [
        Check("all-gathers bring parameters alone", not foreign, _named(foreign) or f"{len(gathers)} of parameters"),
        Check(f"no collective carries all {rows} rows", not whole, _named(whole) or "none does"),
        Check("nothing is gathered to be split anew", forced == 0, f"{forced} messages of the compiler"),
    ]
    limit = "" if budget is None else f" of at most {budget:g}"
    within = budget is None or of_parameters <= budget
    return [*checks, Check("traffic", within, f"{of_parameters:.1f}{limit} x the parameters in float32")]


def _sizes_of_parameters(leaves: Iterable[Any]) -> frozenset[int]:
    """List how many elements a gathered parameter may have: whole, or along one axis, or one layer of it."""
    sizes = set()
    for leaf in leaves:
        part, whole = leaf.sharding.shard_shape(leaf.shape), leaf.shape
        for gathered in range(1 << len(whole)):
            dims = [whole[axis] if gathered >> axis & 1 else part[axis] for axis in range(len(whole))]
            sizes |= {math.prod(dims), math.prod(dims[1:])}
    return frozenset(sizes)


def _carries(dims: tuple[int, ...], rows: int) -> bool:
    return rows > 1 and len(dims) > 1 and rows in dims


def _named(collectives: Sequence[Collective]) -> str:
    """Name the largest of them."""
    if not collectives:
        return ""
    largest = max(collectives, key=lambda each: each.executed_bytes)
    shape = max(largest.shapes, key=lambda shape: shape.bytes)
    more = f" and {len(collectives) - 1} more" if len(collectives) > 1 else ""
    size = f"{shape.dtype}[{','.join(map(str, shape.dims))}]"
    return f"{largest.kind} of {size}, {largest.times} times, of {largest.source or largest.name}{more}"
