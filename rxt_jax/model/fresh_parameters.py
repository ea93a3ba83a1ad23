"""Models before they have parameters, and fresh parameters that are made where they are to live."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from rxt_jax.model import AnyModel, AnyModelConfig, make_model
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.types import Array

__all__ = ["abstract_model", "build_model", "fresh_parameters"]


def abstract_model(config: AnyModelConfig) -> tuple[Any, nnx.State]:
    """Describe a model without allocating it: its structure, and parameters that are shapes, types and axes."""
    return nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))


def fresh_parameters(
    config: AnyModelConfig, seed: int, shardings: Mapping[str, jax.sharding.Sharding] | None = None
) -> dict[str, Array]:
    """Make fresh parameters (path → array), in one compiled program.

    `shardings` says which ones and where each is to live: no device ever has more than its part. None makes all of
    them on one device. The numbers are the same. It runs once, so most of the time is the compiler's; on the CPU half
    of its work gives the same numbers.
    """

    def make() -> dict[str, Array]:
        variables = flat_parameters(nnx.split(make_model(config, rngs=nnx.Rngs(seed)))[1])
        return {path: variables[path][...] for path in (variables if shardings is None else shardings)}

    # Level 0 would be quicker still, but changes the numbers. Other platforms have no such choice.
    options: Any = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    placed = None if shardings is None else dict(shardings)
    return jax.jit(make, out_shardings=placed, compiler_options=options)()


def build_model(config: AnyModelConfig, seed: int) -> AnyModel:
    """Make a model with fresh parameters on one device."""
    graphdef, abstract = abstract_model(config)
    return nnx.merge(graphdef, with_parameters(abstract, fresh_parameters(config, seed)))
