"""Muon: momentum, orthogonalised matrix by matrix, for the kernels of linear maps.

Which dimensions of a stacked or headed kernel form the matrix must be said: left alone, optax
takes a stacked kernel for no matrix and an embedding for one. Updates have singular values near 1
whatever the size of the matrix (Jordan et al., Muon, 2024), so rates are those of Muon: 0.01 to 0.03.

A matrix that is split over devices would have every product of every iteration talk. So on a mesh whole matrices move:

    kernel [layers, inputs / fsdp, outputs / tensor]  ──▶  [layers / (fsdp · tensor), inputs, outputs]  ──▶  and back

That is one all-to-all each way; the iterations between them are local. Experts stay with their devices.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import PartitionSpec as P

from rxt_jax.sharding import parameter_spec

__all__ = ["MatrixKernel", "orthogonalise", "orthogonalised_momentum"]

_DECAY = 0.95  # of the momentum
_STEPS = 5
_EPSILON = 1e-8


class MatrixKernel(NamedTuple):
    """A kernel of one or many matrices: its shape and axes as a variable, and the dimensions of a matrix.

    Dimensions in neither tuple, such as layers and experts, count separate matrices.
    """

    variable: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def counted(self) -> tuple[int, ...]:
        """Return the dimensions that count matrices."""
        return tuple(i for i in range(len(self.variable.shape)) if i not in (*self.inputs, *self.outputs))


def orthogonalised_momentum(
    kernels: Mapping[str, MatrixKernel], *, moment_dtype: str = "float32", dtype: str = "float32"
) -> optax.GradientTransformation:
    """Transform the gradients of the named kernels.

    `moment_dtype` is that of the momentum that is kept, `dtype` that of the iterations.
    """
    # The state is that of optax, so that checkpoints of before are read.
    whole = optax.contrib.scale_by_muon(beta=_DECAY, mu_dtype=jnp.dtype(moment_dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        momentum = optax.tree.update_moment(updates, state.mu, _DECAY, 1)
        ahead = jax.tree.map(
            lambda m, g: _DECAY * m + (1 - _DECAY) * g,
            optax.tree.bias_correction(momentum, _DECAY, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, _DECAY, count),
        )
        directions = {
            path: orthogonalise(ahead[path], kernels[path], state.ns_coeffs, dtype) if path in kernels else leaf
            for path, leaf in ahead.items()
        }
        kept = optax.tree.cast(momentum, jnp.dtype(moment_dtype))
        return directions, state._replace(count=count, mu=kept)

    return optax.GradientTransformation(whole.init, update)


def orthogonalise(x: jax.Array, kernel: MatrixKernel, coefficients: jax.Array, dtype: str = "float32") -> jax.Array:
    """Bring the singular values of every matrix of a kernel near 1; the result has the dtype of `x`.

    `dtype` is that of the iterations, and of what travels. Source: docs/method.md, eq. 111.
    """
    layers = x.shape[0]
    moved, back, parts = _placements(x, kernel)
    matrices = x.astype(dtype)
    if moved is not None:
        filling = [(0, -layers % parts)] + [(0, 0)] * (x.ndim - 1)
        matrices = jax.lax.with_sharding_constraint(jnp.pad(matrices, filling), moved)
    order = (*kernel.counted, *kernel.inputs, *kernel.outputs)
    shape = [matrices.shape[i] for i in order]
    counted, rows = len(kernel.counted), math.prod(x.shape[i] for i in kernel.inputs)
    flat = matrices.transpose(order).reshape(*shape[:counted], rows, -1)
    iterate = _iterate
    for _ in range(counted):  # one by one: layers and experts live on different devices
        iterate = jax.vmap(iterate, in_axes=(0, None))
    result = iterate(flat, coefficients.astype(dtype)).reshape(shape)
    result = result.transpose([order.index(i) for i in range(x.ndim)])
    if moved is not None:
        result = jax.lax.with_sharding_constraint(result, moved)[:layers]
        result = jax.lax.with_sharding_constraint(result, back)
    return result.astype(x.dtype)


def _iterate(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Do the Newton-Schulz steps of one matrix."""
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    x = x / (jnp.linalg.norm(x.astype(jnp.float32)) + _EPSILON).astype(x.dtype)
    for _ in range(_STEPS):
        squares = x @ x.T
        x = coefficients[0] * x + (coefficients[1] * squares + coefficients[2] * squares @ squares) @ x
    return x.T if transposed else x


def _placements(x: jax.Array, kernel: MatrixKernel) -> tuple[P | None, P | None, int]:
    """Say where whole matrices are computed and where the kernel lives, and over how many parts its layers go.

    None where its matrices are whole anyway.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None, None, 1
    home = parameter_spec(kernel.variable, mesh)
    inside = (*kernel.inputs, *kernel.outputs)
    axes = tuple(home[i] for i in inside if home[i] is not None and mesh.shape[home[i]] > 1)
    if not axes:
        return None, None, 1
    away = [None if i in inside else home[i] for i in range(x.ndim)]
    if len(kernel.variable.get_metadata()["axes"]) == x.ndim:
        return P(*away), home, 1
    # Stacked: layers are whole everywhere, so that their dimension is free.
    return P(axes, *away[1:]), home, math.prod(mesh.shape[axis] for axis in axes)
