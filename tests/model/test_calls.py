"""Several interactions in one call: the same sums and slopes whatever the size of a call, and nothing in vain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxt_jax.model.calls import add_up_calls, call_together, join_rows, split_rows

COUNT, ROWS, WIDTH = 5, 2, 3
GIVEN = jax.random.normal(jax.random.key(0), (COUNT, ROWS, WIDTH))
KERNEL = jax.random.normal(jax.random.key(1), (WIDTH, WIDTH))
FACTOR = jnp.arange(1.0, COUNT + 1)
NEEDED = jnp.array([True, False, True, True, False])


def loss_of_call(kernel):
    def loss(given, fixed, number):
        del number
        factor, needed = fixed
        squares = jnp.sum(jnp.tanh(given @ kernel) ** 2, axis=(1, 2)) * needed
        return jnp.sum(factor * squares), squares

    return loss


def plain(kernel, given):
    return jnp.sum(FACTOR * NEEDED * jnp.sum(jnp.tanh(given @ kernel) ** 2, axis=(1, 2)))


def in_calls(most):
    def total(kernel, given):
        return add_up_calls(loss_of_call(kernel), given, (FACTOR, NEEDED), NEEDED, most=most)

    return total


@pytest.mark.parametrize("most", [1, 2, 5])
def test_losses_slopes_and_findings_are_those_of_one_call_for_each(most):
    expected = jax.value_and_grad(plain, argnums=(0, 1))(KERNEL, GIVEN)
    (value, found), slopes = jax.jit(jax.value_and_grad(in_calls(most), argnums=(0, 1), has_aux=True))(KERNEL, GIVEN)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), slopes, expected[1])
    squares = jnp.sum(jnp.tanh(GIVEN @ KERNEL) ** 2, axis=(1, 2)) * NEEDED
    np.testing.assert_allclose(found, squares, rtol=1e-5)
    without, same = jax.jit(in_calls(most))(KERNEL, GIVEN)
    np.testing.assert_allclose(without, value, rtol=1e-6)
    np.testing.assert_allclose(same, found, rtol=1e-6)


def test_the_slope_of_the_sum_is_scaled_by_what_becomes_of_it():
    slope = jax.grad(lambda kernel: jnp.sin(in_calls(2)(kernel, GIVEN)[0] / 9))(KERNEL)
    expected = jax.grad(lambda kernel: jnp.sin(plain(kernel, GIVEN) / 9))(KERNEL)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_what_is_found_passes_no_gradient():
    found = jax.grad(lambda kernel: sum(in_calls(2)(kernel, GIVEN)[1]) + in_calls(2)(kernel, GIVEN)[0])(KERNEL)
    np.testing.assert_allclose(found, jax.grad(plain)(KERNEL, GIVEN), rtol=1e-4, atol=1e-6)


def test_nothing_is_computed_for_what_needs_no_gradient_and_no_call_runs_twice():
    """One product for a value, two more for both slopes, one more for one of them."""

    def products(function, *given):
        return str(jax.make_jaxpr(function)(*given)).count("dot_general")

    total = in_calls(1)
    assert products(lambda k, x: total(k, x)[0], KERNEL, GIVEN) == 1
    assert products(jax.grad(lambda k, x: total(k, x)[0], argnums=(0, 1)), KERNEL, GIVEN) == 3
    assert products(jax.grad(lambda k: total(k, GIVEN)[0]), KERNEL) == 2
    assert products(jax.grad(lambda x: total(KERNEL, x)[0]), GIVEN) == 2


def test_calls_that_nobody_needs_do_not_run():
    ran = []

    def function(given, number):
        jax.debug.callback(lambda number: ran.append(int(number)), number)
        return given + 1.0

    found = jax.jit(lambda x: call_together(function, x, NEEDED, most=2, remat="none"))(GIVEN)
    jax.effects_barrier()
    # Three calls of two, the last filled up: interactions 0 and 1, 2 and 3, 4 alone, which nobody needs.
    assert sorted(ran) == [0, 2]
    np.testing.assert_allclose(found, np.where(np.arange(COUNT)[:, None, None] < 4, GIVEN + 1.0, 0.0), rtol=1e-6)


def test_rows_of_a_conversation_are_neighbours_and_come_apart_again():
    joined = join_rows(GIVEN)
    np.testing.assert_array_equal(joined[:COUNT], GIVEN[:, 0])
    np.testing.assert_array_equal(split_rows(joined, COUNT), GIVEN)
