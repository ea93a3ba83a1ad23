"""Kernels rounded to the type that a model computes in, once per step, while their slopes stay float32.

    kernel float32  ──▶ rounded bfloat16 ──▶ all products of a step
    kernel float32  ◀── slope float32, as the product accumulates it

A cast inside a loop is made in every round, and JAX would round the slope of every product to bfloat16 before it adds
them up. So modules get a rounded copy beside the kernel, and a product that computes with the copy and gives the slope
to the kernel. Where parameters are split, copies are what devices send each other.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["RoundedKernel", "rounded_copy", "rounded_product", "with_rounded_kernels"]

Model = TypeVar("Model")


class RoundedKernel(nnx.Variable):
    """A kernel in the type of products, without a gradient of its own; its axes are those of the kernel."""


def with_rounded_kernels(model: Model) -> Model:
    """Give modules that name `rounded_kernels` copies in the dtype of `model.config`; float32 needs none.

    The model is changed and returned: it is one that was just merged.
    """
    dtype = jnp.dtype(getattr(getattr(model, "config", None), "dtype", "float32"))
    if dtype == jnp.float32:
        return model
    for _, module in list(nnx.iter_graph(model)):
        for name in getattr(module, "rounded_kernels", ()):
            kernel = getattr(module, name)
            copy = jax.lax.stop_gradient(kernel[...]).astype(dtype)
            setattr(module, f"rounded_{name}", RoundedKernel(copy, axes=kernel.get_metadata()["axes"]))
    return model


def rounded_copy(module: Any, name: str) -> Array | None:
    """Return the copy of a kernel of a module, None where it has none."""
    copy = getattr(module, f"rounded_{name}", None)
    return None if copy is None else copy[...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def rounded_product(
    x: Float[Array, "..."], kernel: Float[Array, "..."], rounded: Float[Array, "..."], num_inputs: int, dtype: Any
) -> Float[Array, "..."]:
    """Contract the last `num_inputs` dimensions of x with the first of a kernel; the result has the given dtype.

    `rounded` is the kernel in the dtype of x and gets no slope; that of `kernel` is not rounded on the way.
    """
    return jnp.tensordot(x, rounded, axes=num_inputs, preferred_element_type=dtype)


def _forward(x: Array, kernel: Array, rounded: Array, num_inputs: int, dtype: Any) -> tuple[Array, tuple[Array, Array]]:
    return rounded_product(x, kernel, rounded, num_inputs, dtype), (x, rounded)


def _backward(num_inputs: int, dtype: Any, kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array, None]:
    x, rounded = kept
    rows = x.ndim - num_inputs
    outputs = slope.ndim - rows
    same = (tuple(range(rows, slope.ndim)), tuple(range(num_inputs, num_inputs + outputs)))
    x_slope = jnp.tensordot(slope, rounded.astype(dtype), axes=same, preferred_element_type=dtype)
    joined = (tuple(range(rows)),) * 2
    kernel_slope = jnp.tensordot(x.astype(dtype), slope, axes=joined, preferred_element_type=jnp.float32)
    return x_slope.astype(x.dtype), kernel_slope, None


rounded_product.defvjp(_forward, _backward)
