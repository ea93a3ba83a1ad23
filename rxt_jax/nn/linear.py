"""Linear maps between named axes, and the embedding table."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from rxt_jax.nn.parameters import Initializer, make_parameter, normal, uniform_fan_in
from rxt_jax.nn.rounding import rounded_copy, rounded_product
from rxt_jax.row_sharding import map_rows

__all__ = ["Embedding", "Linear"]


class Linear(nnx.Module):
    """y = x W + b, where inputs and outputs may span several axes, such as heads and head width.

    The product is computed in the dtype of x, with a kernel that may be rounded beforehand (`nn/rounding.py`). `wide`
    accumulates it in float32 and returns that, for logits; `precision` overrides the default of the device, which on
    accelerators rounds float32 factors.
    """

    rounded_kernels = ("kernel",)

    def __init__(
        self,
        inputs: dict[str, int],
        outputs: dict[str, int],
        *,
        bias: bool = True,
        initializer: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        fan_in = math.prod(inputs.values())
        default = uniform_fan_in(fan_in)
        shape = (*inputs.values(), *outputs.values())
        self.kernel = make_parameter(rngs, initializer or default, shape, (*inputs, *outputs))
        self.bias = make_parameter(rngs, default, tuple(outputs.values()), tuple(outputs)) if bias else None
        self.num_inputs = len(inputs)

    def __call__(
        self, x: Float[Array, "..."], *, wide: bool = False, precision: jax.lax.Precision | None = None
    ) -> Float[Array, "..."]:
        kernel, rounded = self.kernel[...], rounded_copy(self, "kernel")
        result = jnp.float32 if wide else x.dtype
        if rounded is not None and rounded.dtype == x.dtype and precision is None:
            y: Any = rounded_product(x, kernel, rounded, self.num_inputs, result)
        else:
            y = jnp.tensordot(
                x, kernel.astype(x.dtype), axes=self.num_inputs, precision=precision, preferred_element_type=result
            )
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class Embedding(nnx.Module):
    """A vector per token id. Source: docs/method.md, eq. 4."""

    def __init__(self, vocab_size: int, embed_dim: int, *, std: float = 1.0, rngs: nnx.Rngs):
        self.table = make_parameter(rngs, normal(std), (vocab_size, embed_dim), ("vocab", "embed"))

    def __call__(self, ids: Int[Array, "... T"]) -> Float[Array, "... T D"]:
        layout, parameters = nnx.split(self)

        def look_up(ids: Array, parameters: Any, _: tuple[str, ...]) -> tuple[Array, tuple[()]]:
            return nnx.merge(layout, parameters).table[...][ids], ()

        # Every device looks up its own rows: a table that is split over the width would hand out parts of all rows.
        # Of `[I B ...]` rows come second.
        return map_rows(look_up, ids, parameters, row_axis=1 if ids.ndim > 2 else 0)[0]
