"""Muon: momentum, orthogonalised matrix by matrix, for the kernels of linear maps.

Which dimensions of a stacked or headed kernel form the matrix must be said: left alone, optax
takes a stacked kernel for no matrix and an embedding for one. Source: supervised spec §8.1; Liu
et al., Muon is Scalable for LLM Training (2025), for the size of the update.
"""

import math
from typing import Any

import optax
import optax.contrib

__all__ = ["orthogonalised_momentum"]

_ADAM_SIZE = 0.2  # the usual root mean square of an Adam update, so that one learning rate serves both


def orthogonalised_momentum(matrices: dict[str, tuple]) -> optax.GradientTransformation:
    """Transform the gradients of the named kernels; a value is (input dimensions, output
    dimensions).

    Dimensions in neither, such as layers and experts, count separate matrices.
    """

    def dimensions(updates: dict[str, Any]) -> dict[str, Any]:
        return {
            path: optax.contrib.MuonDimensionNumbers(*matrices[path]) if path in matrices else optax.MaskedNode()
            for path in updates
        }

    def resize(updates: Any, params: Any = None) -> Any:
        del params

        def one(path: str, update: Any) -> Any:
            if path not in matrices:
                return update
            fans = [math.prod(update.shape[i] for i in axes) for axes in matrices[path]]
            return update * (_ADAM_SIZE * max(fans) ** 0.5)

        return {path: one(path, update) for path, update in updates.items()}

    return optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions)  # pyright: ignore[reportArgumentType], optax.stateless(resize)
    )
