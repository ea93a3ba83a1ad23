"""What a compiled program asks of its devices, read from its text: nothing here runs anything."""

from rxt_jax.scaling.collectives import Collective, CollectiveTotal, collectives_of, total_by_kind, total_bytes
from rxt_jax.scaling.hlo import Instruction, Program, Shape, read_program
from rxt_jax.scaling.products import product_operations

__all__ = [
    "Collective",
    "CollectiveTotal",
    "Instruction",
    "Program",
    "Shape",
    "collectives_of",
    "product_operations",
    "read_program",
    "total_by_kind",
    "total_bytes",
]
