"""What is reported of a rollout, beside the losses. Source: docs/method.md §19.9."""

from typing import NamedTuple

import jax.numpy as jnp

from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.types import Array, Metrics

__all__ = ["WATCHED", "Drawn", "trajectory_metrics"]

WATCHED = (
    "reward/total",
    "held_out/total",
    "facts/recall",
    "policy/reference_kl",
    "policy/approximate_kl",
    "answer/length",
)
"""What `rxt train` shows of rollouts beside the loss: the reward, the one that is only looked at, recall, how far the
policy is from its reference and from the one that acted, and the length of answers; of those, what there is."""


class Drawn(NamedTuple):
    """The part of a trajectory that is reported of every stage that leads conversations; see there."""

    rewards: Array  # float32 [I B]
    answered: Array  # bool [I B]
    action_mask: Array  # bool [I B A]
    ended: Array  # bool [I B]
    components: dict[str, Array]  # float32 [I B] each


def trajectory_metrics(given: Trajectory | Drawn, *, has_values: bool = True) -> Metrics:
    """Average rewards and their components, lengths and endings over answers, and rewards also by interaction.

    Where values were asked for, `facts/recall` is the share of them that these answers hold.
    With values `critic/explained` is the share of the returns' variance that values explain, at most 1.
    """
    counted = given.answered.astype(jnp.float32)
    number = jnp.sum(counted)
    length = jnp.sum(given.action_mask, axis=-1, dtype=jnp.float32)
    rows = {
        "reward/total": given.rewards,
        "answer/length": length,
        "answer/ended": given.ended.astype(jnp.float32),
        **given.components,
    }
    found = {name: (jnp.sum(each * counted), number) for name, each in rows.items()}
    for name, each in given.components.items():
        if name.endswith("/not_finite"):
            # Rows whose reward could not be told are no answers to learn from, but they are to be counted.
            found[name] = (jnp.sum(each), number + jnp.sum(each))
    for name, asked in given.components.items():
        if name.endswith("/asked"):
            # Of the answers that were asked for a value alone: a greeting recalls nothing.
            part = name.removesuffix("/asked")
            counts = counted * (asked > 0)
            found[f"{part}/recall"] = (jnp.sum(given.components[f"{part}/exact"] * counts), jnp.sum(counts))
    for name in ("reward/total", "answer/length"):
        for place in range(1, len(counted)):
            total = jnp.sum(rows[name][place] * counted[place])
            found[f"{name}/interaction_{place}"] = (total, jnp.sum(counted[place]))
    if has_values and isinstance(given, Trajectory):
        found["critic/value"] = (jnp.sum(given.values * counted), number)
        variance, left = _variance(given.returns, counted), _variance(given.returns - given.values, counted)
        varies = (variance > 1e-8).astype(jnp.float32)
        found["critic/explained"] = (varies * (1.0 - left / jnp.maximum(variance, 1e-8)), varies)
    spread = jnp.sqrt(_variance(given.rewards, counted))
    return found | {"reward/spread": (spread, jnp.float32(1.0))}


def _variance(x: Array, counted: Array) -> Array:
    number = jnp.maximum(jnp.sum(counted), 1.0)
    mean = jnp.sum(x * counted) / number
    return jnp.sum((x - mean) ** 2 * counted) / number
