"""A reward that somebody else wrote: a pure function of arrays, or any Python on the host."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rxt_jax.rewards.reward import Reward, RewardContext, RewardInput
from rxt_jax.row_sharding import map_rows, rows_are_own
from rxt_jax.types import Array

__all__ = ["FunctionReward", "RewardFunction"]

RewardFunction = Callable[[RewardInput, RewardContext], Any]
"""`(given, context) -> [B]`: one number per conversation. It may return NaN for those that it cannot tell."""


@dataclass(frozen=True, kw_only=True)
class FunctionReward(Reward):
    """Reward by a function.

    On the device it is traced once and has to be made of JAX operations.
    """

    name = "function"

    function: str | RewardFunction
    """`"package.module:name"`, as a recipe has to say it, or the function itself."""
    on_host: bool = False
    """Whether it is called with NumPy arrays in every interaction: it may do anything, costs a transfer, and the run
    waits for it.

    One process calls it once for all rows. Where several act together, every process calls it for each of its devices
    with the rows of that device alone, and at the same time as the others."""
    wrong_shape: Literal["raise", "skip"] = "raise"
    """What happens when a function on the host returns another shape than `[B]`: an error, or rows that do not count.

    On the device it is always an error, before anything runs."""

    def __post_init__(self) -> None:
        if self.wrong_shape not in ("raise", "skip"):
            raise ValueError(f"wrong_shape must be 'raise' or 'skip', got {self.wrong_shape!r}.")
        self._resolved()

    def score(self, given: RewardInput, context: RewardContext, carry: tuple) -> tuple[Array, dict[str, Array], tuple]:
        """Call the function."""
        function = self._resolved()
        if not self.on_host:
            return jnp.asarray(function(given, context)), {}, carry

        def call(given: RewardInput, context: RewardContext, over: tuple[str, ...]) -> tuple[Array, tuple[()]]:
            result = jax.ShapeDtypeStruct(given.valid.shape, jnp.float32)
            return jax.pure_callback(self._on_host, result, given, context, vmap_method="sequential"), ()

        if jax.process_count() == 1 or jax.sharding.get_abstract_mesh().empty:
            return call(given, context, ())[0], {}, carry
        # Left to the partitioner, process 0 would be sent the rows of all of them.
        if not rows_are_own(len(given.valid)):
            raise ValueError(
                f"reward function {self._label} runs on the host, where every device asks for its own rows. This mesh "
                f"gives rows to several devices at once. Set mesh.tensor = 1, or write the function in JAX operations "
                f"and set on_host=False."
            )
        return map_rows(call, given, context)[0], {}, carry

    def _on_host(self, given: RewardInput, context: RewardContext) -> np.ndarray:
        given, context = jax.tree.map(np.asarray, (given, context))
        found = np.asarray(self._resolved()(given, context), np.float32)
        if found.shape == given.valid.shape:
            return found
        if self.wrong_shape == "raise":
            raise ValueError(
                f"reward function {self._label} must return {list(given.valid.shape)}, one number per conversation, "
                f"got shape {list(found.shape)}."
            )
        return np.full(given.valid.shape, np.nan, np.float32)

    @property
    def _label(self) -> str:
        return self.function if isinstance(self.function, str) else getattr(self.function, "__name__", "function")

    def _resolved(self) -> RewardFunction:
        if not isinstance(self.function, str):
            return self.function
        module, colon, name = self.function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name) if colon and name else None
        except (ImportError, AttributeError) as error:
            raise ValueError(f"function = {self.function!r}: {error}.") from error
        if not callable(found):
            raise ValueError(f"function must be 'package.module:name' of something callable, got {self.function!r}.")
        return found
