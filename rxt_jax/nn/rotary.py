"""Rotary positions as a setting of a component."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rxt_jax.ops.rotary import apply_rotary, rotary_angles

__all__ = ["RotaryConfig", "rotate"]


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Rotary positions of one component. Source: docs/method.md §4."""

    base: float = 10000.0
    """β of docs/method.md, eq. 10, above 1: the larger, the slower the slowest frequency."""
    legacy_layout: bool = False
    """Results as two halves (`Compatibility.legacy_rotary_layout`)."""
    angles_in_compute_dtype: bool = False
    """Rounded angles (`Compatibility.rotary_angles_in_compute_dtype`)."""

    def __post_init__(self) -> None:
        if self.base <= 1.0:
            raise ValueError(f"rotary base must be above 1, got {self.base}. Usual: 10000.")


def rotate(
    config: RotaryConfig | None, x: Float[Array, "B T N H"], positions: Int[Array, "B1 T"] | None
) -> Float[Array, "B T N H"]:
    """Rotate heads to their positions; without a config or positions they stay as they are."""
    if config is None or positions is None:
        return x
    angles = rotary_angles(positions, x.shape[-1], config.base)
    if config.angles_in_compute_dtype and x.dtype != jnp.float32:
        angles = angles.astype(x.dtype)
    return apply_rotary(x, angles, legacy_layout=config.legacy_layout)
