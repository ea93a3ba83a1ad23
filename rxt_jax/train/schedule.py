"""Learning-rate schedules: a factor on every group's peak rate, as a pure function of the
update."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from rxt_jax.types import Array

__all__ = ["ScheduleConfig", "learning_rate_factor"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A warm-up, then a shape; all shares are shares of the run's updates.

    `wsd` is warm-up, stable, decay: constant, then linear over the last `decay_share`.
    `final_ratio` is what remains of the peak at the end, and after it. `warmup_from_zero` is the
    published warm-up, whose first update has rate 0 and so moves nothing but the moments.
    """

    kind: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup_share: float = 0.05
    final_ratio: float = 0.0
    decay_share: float = 0.2
    warmup_from_zero: bool = False

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

    Fractions of an update are allowed. After the end the factor stays where it is (the reference's
    cosine rises again). Source: supervised spec §8.2 and §8.3.
    """
    update = jnp.asarray(update, jnp.float32)
    warmup = int(config.warmup_share * total)
    rise = (update + (0.0 if config.warmup_from_zero else 1.0)) / max(warmup, 1)
    progress = jnp.clip((update - warmup) / max(total - warmup, 1), 0.0, 1.0)
    if config.kind == "cosine":
        fall = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    elif config.kind == "wsd":
        left = jnp.clip((total - update) / max(config.decay_share * total, 1.0), 0.0, 1.0)
        fall = left
    else:
        return jnp.where(update < warmup, jnp.minimum(rise, 1.0), 1.0)
    fall = config.final_ratio + (1.0 - config.final_ratio) * fall
    return jnp.where(update < warmup, jnp.minimum(rise, 1.0), fall)
