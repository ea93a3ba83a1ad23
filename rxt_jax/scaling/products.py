"""Operations of the matrix products in a compiled program, loops counted as they run."""

import math

from rxt_jax.scaling.hlo import Program, read_program

__all__ = ["product_operations"]


def product_operations(program: Program | str) -> int:
    """Count multiplications and additions in all products that one device executes: 2 · m · n · k each.

    Products inside custom calls (kernels) are not seen. For what a model must compute, and no compiler's choices, count
    analytically instead.
    """
    program = read_program(program) if isinstance(program, str) else program
    total = 0
    for computation, instruction, times in program.executed():
        if instruction.opcode != "dot":
            continue
        left = program.computations[computation][instruction.operands[0]].shapes[0]
        contracted = instruction.attribute("lhs_contracting_dims") or ""
        inner = math.prod(left.dims[int(place)] for place in contracted.split(",") if place)
        total += 2 * instruction.shapes[0].size * inner * times
    return total
