"""Learning-rate schedules: a factor on every group's peak rate, as a pure function of the
update."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from rxt_jax.types import Array

__all__ = ["ScheduleConfig", "learning_rate_factor", "published_step_counts"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A warm-up, then a shape; all shares are shares of the run's updates. Source: docs/method.md §17.3."""

    kind: Literal["cosine", "constant", "wsd"] = "cosine"
    """`wsd` is warm-up, stable, decay: constant, then linear over the last `decay_share`."""
    warmup_share: float = 0.05
    """Share of the updates that the rate rises in."""
    final_ratio: float = 0.0
    """What remains of the peak at the end, and after it; not for `constant`."""
    decay_share: float = 0.2
    """Share of the updates that `wsd` falls in."""
    warmup_from_zero: bool = False
    """Whether the first update has rate 0 and so moves nothing but the moments, as in most trainers, the published one
    included; otherwise the warm-up begins one step above."""

    def __post_init__(self) -> None:
        for name in ("warmup_share", "final_ratio", "decay_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{name} must lie in [0, 1], got {getattr(self, name)}. It is a share, not a number of updates."
                )
        if self.kind == "wsd" and self.warmup_share + self.decay_share > 1.0:
            raise ValueError(
                f"warmup_share + decay_share must not exceed 1, got "
                f"{self.warmup_share} + {self.decay_share}. Make one of them smaller."
            )


def learning_rate_factor(config: ScheduleConfig, update: Array | float, total: int) -> Array:
    """Give the factor in [0, 1] of an update, counted from 0, in a run of `total` updates.

    Fractions of an update are allowed. After the end the factor stays where it is (the published
    cosine rises again). An array gives float32, a Python number float64. Source: docs/method.md, eq. 112, 113 and 114.
    """
    if isinstance(update, int | float):
        return _factor(np, config, np.float64(update), total)
    return _factor(jnp, config, jnp.asarray(update, jnp.float32), total)


def _factor(xp: Any, config: ScheduleConfig, update: Any, total: int) -> Any:
    warmup = int(config.warmup_share * total)
    rise = (update + (0.0 if config.warmup_from_zero else 1.0)) / max(warmup, 1)
    progress = xp.clip((update - warmup) / max(total - warmup, 1), 0.0, 1.0)
    if config.kind == "cosine":
        fall = 0.5 * (1.0 + xp.cos(xp.pi * progress))
    elif config.kind == "wsd":
        left = xp.clip((total - update) / max(config.decay_share * total, 1.0), 0.0, 1.0)
        fall = left
    else:
        return xp.where(update < warmup, xp.minimum(rise, 1.0), 1.0)
    fall = config.final_ratio + (1.0 - config.final_ratio) * fall
    return xp.where(update < warmup, xp.minimum(rise, 1.0), fall)


def published_step_counts(
    *,
    dataset_size: int,
    epochs: int,
    batch_size: int,
    warmup_ratio: float = 0.0,
    num_workers: int = 1,
    gradient_accumulation_steps: int = 1,
    curriculum_steps: int = 1,
) -> dict[str, int]:
    """Count updates as the published helper does, one batch fewer than really run: for repeating its schedules.

    `curriculum_steps` is the number of interactions of an episode. Source: docs/method.md, eq. 115.
    """
    batches = int((dataset_size / batch_size - 1) // num_workers)
    epoch = batches * curriculum_steps
    total = int(epochs * epoch / gradient_accumulation_steps)
    return {"total": total, "warmup": int(warmup_ratio * total), "epoch": epoch, "batch": batches}
