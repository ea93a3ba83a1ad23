"""Several interactions in one call, for what waits for no other interaction.

    interactions [I …] ──▶ calls of c interactions ──▶ results [I …]

Fewer and larger calls keep a device busy, and the slope of a parameter is added up once per call. Only memory has to be
walked one interaction after the other (`rxt_jax.model.episode`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from rxt_jax.nn.remat import rematerialised

__all__ = ["add_up_calls", "call_together", "join_rows", "split_rows"]


def call_together(
    function: Callable[[PyTree, Array], PyTree],
    interactions: PyTree,
    needed: Bool[Array, "I"],
    *,
    most: int = 1,
    remat: str = "full",
) -> PyTree:
    """Apply `function(interactions[c ...], number) -> results[c ...]` to I interactions, about `most` at a time.

    `number` is that of the first interaction of a call. All leaves have a leading I. Calls are as equal as they can be
    and have one shape: the last one is filled up with zeros. A call none of whose interactions is `needed` does not
    run; its results are zeros. What `remat` does not keep of a call is computed again for the gradient (`nn/remat.py`),
    so that with `full` one call's activations exist at a time.
    """
    together = _together(len(needed), most)

    def body(carry: None, inputs: tuple[PyTree, Array, Array]) -> tuple[None, PyTree]:
        given, needed, number = inputs
        return carry, _run_if(jnp.any(needed), lambda given: function(given, number), given)

    _, results = jax.lax.scan(
        rematerialised(body, remat), None, (*_cut((interactions, needed), together), _numbers(len(needed), together))
    )
    return _uncut(results, len(needed))


def add_up_calls(
    loss: Callable[[PyTree, PyTree, Array], tuple[Float[Array, ""], PyTree]],
    given: PyTree,
    fixed: PyTree,
    needed: Bool[Array, "I"],
    *,
    most: int = 1,
) -> tuple[Float[Array, ""], PyTree]:
    """Add up the losses of I interactions, about `most` of them at a time; return what was found as well, `[I ...]`.

    `loss(given[c ...], fixed[c ...], number) -> (loss, found[c ...])`; the rest is that of `call_together`. A sum has
    the slope 1 in each of its terms, so a call's gradient is computed with the call itself: activations of one call
    exist at a time, and none is computed twice. It goes to `given` and to the floats that `loss` has from outside
    (parameters), through the loss alone; `fixed` gets none.
    """
    count = len(needed)
    together = _together(count, most)
    fixed = (*_cut((fixed, needed), together), _numbers(count, together))
    given = _cut(given, together)

    def with_outside(given: PyTree, fixed: tuple) -> tuple[Array, PyTree]:
        fixed, _, number = fixed
        return loss(given, fixed, number)

    closed, outside = jax.closure_convert(with_outside, *jax.tree.map(lambda leaf: leaf[0], (given, fixed)))

    @jax.custom_vjp
    def add_up(outside: list[Array], given: PyTree, fixed: tuple) -> tuple[Array, PyTree]:
        def body(total: Array, inputs: tuple[PyTree, tuple]) -> tuple[Array, PyTree]:
            value, found = _run_if(jnp.any(inputs[1][1]), lambda given: closed(given, inputs[1], *outside), inputs[0])
            return total + value, found

        return jax.lax.scan(body, jnp.float32(0.0), (given, fixed))

    def forward(outside: list[Any], given: PyTree, fixed: PyTree) -> tuple[tuple[Array, PyTree], tuple]:
        kept = _Moving.of(outside)
        each = _Moving.of(given)
        values = jax.tree.map(lambda leaf: leaf.value, fixed)

        def body(sums: tuple[Array, list[Array]], inputs: tuple[list[Array], list[Array], tuple]) -> tuple:
            moving, still, fixed = inputs

            def one(moving: list[Array], outside: list[Array]) -> tuple[Array, PyTree]:
                return closed(each.whole(moving, still), fixed, *kept.whole(outside, kept.still))

            def run(sums: tuple[Array, list[Array]]) -> tuple:
                (value, found), (slope, outside_slope) = jax.value_and_grad(one, argnums=(0, 1), has_aux=True)(
                    moving, kept.moving
                )
                return jax.tree.map(jnp.add, sums, (value, outside_slope)), (found, slope)

            def skip(sums: tuple[Array, list[Array]]) -> tuple:
                nothing = jax.eval_shape(run, sums)[1]
                return sums, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing)

            return jax.lax.cond(jnp.any(fixed[1]), run, skip, sums)

        start = (jnp.float32(0.0), [jnp.zeros_like(leaf) for leaf in kept.moving])
        (total, outside_slope), (found, slope) = jax.lax.scan(body, start, (each.moving, each.still, values))
        return (total, found), (kept.placed(outside_slope), each.placed(slope))

    def backward(slopes: PyTree, slope: tuple[Any, PyTree]) -> tuple[PyTree, PyTree, None]:
        scaled = jax.tree.map(lambda leaf: (slope[0] * leaf).astype(leaf.dtype), slopes)
        return *scaled, None

    add_up.defvjp(forward, backward, symbolic_zeros=True)
    total, found = add_up(outside, given, fixed)
    return total, jax.lax.stop_gradient(_uncut(found, count))


class _Moving(NamedTuple):
    """The arrays of a pytree, those that a gradient goes to apart from the others."""

    moves: tuple[bool, ...]
    moving: list[Array]
    still: list[Array]
    structure: Any

    @classmethod
    def of(cls, primals: PyTree) -> "_Moving":
        leaves, structure = jax.tree.flatten(primals)
        moving = [leaf.value for leaf in leaves if leaf.perturbed]
        still = [leaf.value for leaf in leaves if not leaf.perturbed]
        return cls(tuple(leaf.perturbed for leaf in leaves), moving, still, structure)

    def whole(self, moving: list[Array], still: list[Array]) -> PyTree:
        """Put other arrays of the two kinds together."""
        parts = (iter(still), iter(moving))
        return jax.tree.unflatten(self.structure, [next(parts[is_moving]) for is_moving in self.moves])

    def placed(self, slopes: list[Array]) -> PyTree:
        """Put slopes where they belong, None elsewhere."""
        found = iter(slopes)
        return jax.tree.unflatten(self.structure, [next(found) if is_moving else None for is_moving in self.moves])


def join_rows(leaf: Array) -> Array:
    """Make rows `[B · c ...]` of c interactions `[c B ...]`, those of one conversation side by side.

    Conversations come first, so that a batch that is split over devices stays where it is.
    """
    leaf = jnp.swapaxes(leaf, 0, 1)
    return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])


def split_rows(leaf: Array, together: int) -> Array:
    """Undo `join_rows`: `[B · c ...]` → `[c B ...]`."""
    return jnp.swapaxes(leaf.reshape(-1, together, *leaf.shape[1:]), 0, 1)


def _together(count: int, most: int) -> int:
    return -(-count // -(-count // most))


def _numbers(count: int, together: int) -> Array:
    return jnp.arange(0, count, together)


def _cut(tree: PyTree, together: int) -> Any:
    def cut(leaf: Array) -> Array:
        missing = -len(leaf) % together
        leaf = jnp.pad(leaf, [(0, missing), *[(0, 0)] * (leaf.ndim - 1)]) if missing else leaf
        return leaf.reshape(-1, together, *leaf.shape[1:])

    return jax.tree.map(cut, tree)


def _uncut(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], tree)


def _run_if(needed: Array, function: Callable[..., PyTree], *given: PyTree) -> PyTree:
    def nothing(*given: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *given))

    return jax.lax.cond(needed, function, nothing, *given)
