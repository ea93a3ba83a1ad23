"""Muon: momentum, orthogonalised matrix by matrix, for the kernels of linear maps.

Which dimensions of a stacked or headed kernel form the matrix must be said: left alone, optax
takes a stacked kernel for no matrix and an embedding for one. Updates have singular values near 1
whatever the size of the matrix (Jordan et al., Muon, 2024), so rates are those of Muon: 0.01 to 0.03.
"""

from typing import Any

import optax
import optax.contrib

__all__ = ["orthogonalised_momentum"]


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

    return optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions)  # pyright: ignore[reportArgumentType]
