"""How parameters are born, their distribution and the names of their axes, and how they are found by path.

Every parameter is `nnx.Param(value, axes=(...))` with one logical axis name per dimension; the table in
`rxt_jax.sharding` maps names to mesh axes. In a stack of layers one dimension comes before them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.types import Array, Key

__all__ = [
    "Initializer",
    "constant",
    "flat_parameters",
    "make_parameter",
    "normal",
    "uniform_fan_in",
    "with_parameters",
]

Initializer = Callable[[Key, tuple[int, ...]], Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """Draw from U(−1/√fan_in, 1/√fan_in), the published default. Source: docs/method.md §11."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def normal(std: float, mean: float = 0.0) -> Initializer:
    """Draw from N(mean, std²)."""
    return lambda key, shape: mean + std * jax.random.normal(key, shape)


def constant(value: float) -> Initializer:
    """Fill with one value."""
    return lambda key, shape: jnp.full(shape, value, jnp.float32)


def make_parameter(
    rngs: nnx.Rngs, initializer: Initializer, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param:
    """Make a float32 parameter whose dimensions are named."""
    if len(shape) != len(axes):
        raise ValueError(f"axes must name every dimension of {shape}, got {axes}.")
    return nnx.Param(initializer(rngs.params(), shape), axes=axes)


def flat_parameters(params: Any) -> dict[str, Any]:
    """List the parameters of an `nnx.State` by path, such as `decoder/layers/cross_attention/query/kernel`."""
    return {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(params)}


def with_parameters(params: Any, values: Mapping[str, Any]) -> Any:
    """Put new values in place of those parameters of an `nnx.State` that `values` names."""
    replaced = []
    for path, variable in nnx.to_flat_state(params):
        name = "/".join(map(str, path))
        replaced.append((path, variable.replace(values[name]) if name in values else variable))
    return nnx.from_flat_state(replaced)
