"""Maps from hidden states to logits as values, which bring their parameters along."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["Projection"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Projection:
    """A function of hidden states whose parameters are leaves of a pytree.

    A method of a model would hide them: who wants to apply it on every device to that device's rows has to say where
    its parameters are (`row_sharding.map_rows`).
    """

    parameters: Any
    """An `nnx.State`."""
    layout: Any = field(metadata={"static": True})
    """What `nnx.split` says about the modules beside their parameters."""
    apply: Callable[[dict[str, Any], Array], Array] = field(metadata={"static": True})
    """`(modules, hidden) -> logits`, a function of a module, so that equal projections are equal."""

    @classmethod
    def of(cls, apply: Callable[[dict[str, Any], Array], Array], modules: dict[str, nnx.Module]) -> "Projection":
        """Make one of the modules that `apply` wants."""
        layout, parameters = nnx.split(modules)
        return cls(parameters, layout, apply)

    def __call__(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Return logits, float32."""
        return self.apply(nnx.merge(self.layout, self.parameters), hidden)
