"""Activation functions by name."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rxt_jax.types import Array

__all__ = ["Activation", "activation_function"]

Activation = Literal["silu", "gelu", "relu", "sigmoid", "tanh", "linear"]

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


def activation_function(name: Activation) -> Callable[[Array], Array]:
    """Look up an elementwise function; `gelu` is the exact one. Source: docs/method.md, eq. 8."""
    if name not in _FUNCTIONS:
        raise ValueError(f"activation must be one of {', '.join(_FUNCTIONS)}, got {name!r}.")
    return _FUNCTIONS[name]
