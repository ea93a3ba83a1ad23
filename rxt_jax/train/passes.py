"""Learning from one batch several times: passes over minibatches of its rows, all in the compiled train step.

What acting costs is paid once for all passes. Source: docs/method.md §17.5.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rxt_jax.stages.stage import Passes
from rxt_jax.types import Array, Key, Metrics

__all__ = ["make_passes"]

Learn = Callable[..., tuple[Any, Any, Metrics]]
"""`(trained, opt_state, batch, key, update) -> (trained, opt_state, metrics)`: one update, or one walk of them."""


def make_passes(
    passes: Passes, learn: Learn, start: tuple[Any, Any], batch: Any, batch_axis: int, key: Key, update: Array
) -> tuple[Any, Any, Metrics]:
    """Learn `passes.epochs` times from a batch; return parameters, moments and the sums of all metrics.

    Rows are shuffled anew in every pass. A pass after the limit is skipped at run time; `passes/made` counts the
    others. `update` may be a fraction inside: schedules count batches.
    """
    if passes.epochs == passes.minibatches == 1:
        return learn(*start, batch, key, update)
    rows = jax.tree.leaves(batch)[0].shape[batch_axis]
    if rows % passes.minibatches:
        raise ValueError(
            f"minibatches must divide the rows of a batch, got {passes.minibatches} for {rows} rows. "
            f"Choose a divisor of the batch size (times the size of groups, with replayed rows)."
        )
    total = passes.epochs * passes.minibatches

    def make_pass(trained: Any, opt_state: Any, number: Array) -> tuple[Any, Any, Metrics]:
        key_here = jax.random.fold_in(key, number)
        parts = _cut(batch, batch_axis, passes.minibatches, jax.random.fold_in(key_here, passes.minibatches))

        def part(carry: tuple, inputs: tuple) -> tuple[tuple, Metrics]:
            minibatch, place = inputs
            at = update + (number * passes.minibatches + place) / total
            trained, opt_state, metrics = learn(*carry, minibatch, jax.random.fold_in(key_here, place), at)
            return (trained, opt_state), metrics

        carry, metrics = jax.lax.scan(part, (trained, opt_state), (parts, jnp.arange(passes.minibatches)))
        return *carry, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)

    none = jax.tree.map(jnp.zeros_like, jax.eval_shape(make_pass, *start, jnp.int32(0))[2])

    def one(carry: tuple, number: Array) -> tuple[tuple, Metrics]:
        trained, opt_state, is_over = carry
        trained, opt_state, metrics = jax.lax.cond(
            is_over, lambda trained, opt_state, _: (trained, opt_state, none), make_pass, trained, opt_state, number
        )
        made = 1.0 - is_over.astype(jnp.float32)
        if passes.limit is not None:
            name, limit = passes.limit
            value, count = metrics[name]
            is_over = is_over | (value / jnp.maximum(count, 1e-9) > limit)
        return (trained, opt_state, is_over), metrics | {"passes/made": (made, jnp.float32(0.0))}

    carry = (*start, jnp.bool_(False))
    (trained, opt_state, _), metrics = jax.lax.scan(one, carry, jnp.arange(passes.epochs))
    metrics = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
    return trained, opt_state, metrics | {"passes/made": (metrics["passes/made"][0], jnp.float32(1.0))}


def _cut(batch: Any, axis: int, count: int, key: Key) -> Any:
    """Deal the rows of a batch out to minibatches, `[count …]`; one minibatch is the batch as it is."""
    if count == 1:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch)
    rows = jax.tree.leaves(batch)[0].shape[axis]
    order = jax.random.permutation(key, rows)

    def deal(leaf: Any) -> Array:
        leaf = jnp.moveaxis(jnp.take(jnp.asarray(leaf), order, axis=axis), axis, 0)
        leaf = leaf.reshape(count, rows // count, *leaf.shape[1:])
        return jnp.moveaxis(leaf, 1, axis + 1)

    return jax.tree.map(deal, batch)
