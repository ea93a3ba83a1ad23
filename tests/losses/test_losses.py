"""Losses against numbers worked out by hand."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rxt_jax.losses import (
    answer_cross_entropy,
    cosine_by_row,
    fit_to_slots,
    memory_targets,
    new_weight,
    projected_answer_cross_entropy,
    projected_sequence_log_probs,
    shared_length_weights,
    shifted_weights,
    token_cross_entropy,
)

# Softmax of log(1, 2, 5) is 1/8, 2/8, 5/8.
LOGITS = jnp.log(jnp.array([[[1.0, 2.0, 5.0]] * 3]))


def test_cross_entropy_by_hand():
    targets, mask = jnp.array([[0, 2, 1]]), jnp.array([[True, True, False]])
    found = token_cross_entropy(LOGITS, targets, mask)
    assert float(found.loss) == pytest.approx(math.log(8) + math.log(8 / 5), rel=1e-6)
    assert float(found.count) == 2
    assert float(found.correct) == 1


def test_answers_are_predicted_by_the_token_before():
    ids, labels = jnp.array([[2, 0, 2]]), jnp.array([[True, True, True]])
    found = answer_cross_entropy(LOGITS, ids, labels)
    assert float(found.count) == 2  # the first token is nobody's target
    assert float(found.loss) == pytest.approx(math.log(8) + math.log(8 / 5), rel=1e-6)


def test_nothing_scored_is_zero_whatever_the_logits_are():
    broken = LOGITS.at[0, 0, 0].set(jnp.inf).at[0, 1, 1].set(jnp.nan)
    found = token_cross_entropy(broken, jnp.array([[0, 0, 0]]), jnp.zeros((1, 3), bool))
    assert [float(value) for value in found] == [0.0, 0.0, 0.0]


def test_targets_outside_the_vocabulary_are_harmless_where_nothing_is_scored():
    mask = jnp.array([[True, False, False]])
    assert float(token_cross_entropy(LOGITS, jnp.array([[2, 99, -1]]), mask).loss) == pytest.approx(math.log(8 / 5))


def test_cross_entropy_is_float32_whatever_comes_in():
    found = token_cross_entropy(LOGITS.astype(jnp.bfloat16), jnp.array([[0, 2, 1]]), jnp.ones((1, 3), bool))
    assert found.loss.dtype == jnp.float32


def test_the_share_of_the_new_falls_from_interaction_to_interaction():
    found = new_weight(jnp.arange(13))
    expected = [0.9, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.05, 0.05]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("new", "shift", "towards_memory", "expected"),
    [(0.5, 0.15, True, 0.35), (0.5, 0.15, False, 0.65), (0.9, 0.15, False, 1.0), (0.05, 0.15, True, 0.0)],
)
def test_shifted_weights_are_shares(new, shift, towards_memory, expected):
    accumulated, fresh = shifted_weights(jnp.float32(new), jnp.float32(shift), jnp.bool_(towards_memory))
    assert float(fresh) == pytest.approx(expected, abs=1e-6)
    assert float(accumulated + fresh) == pytest.approx(1.0)


def test_targets_mix_memory_and_states():
    memory, encoded = jnp.full((1, 1, 2, 2), 4.0), jnp.full((1, 1, 2, 2), 8.0)
    np.testing.assert_allclose(memory_targets(memory, encoded, jnp.float32(0.25), jnp.float32(0.75)), 7.0)


def states(length: int) -> jax.Array:
    return jnp.arange(length, dtype=jnp.float32).reshape(1, 1, length, 1)


@pytest.mark.parametrize(
    ("length", "slots", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (2, 5, [0, 1, 0, 1, 0]),
        (4, 2, [0.5, 2.5]),
        (5, 2, [1, 3]),  # ranges [0, 3) and [2, 5) share the middle, as adaptive pooling does
    ],
)
def test_tokens_are_fitted_to_slots(length, slots, expected):
    fitted, mask = fit_to_slots(states(length), jnp.ones((1, length), bool), slots)
    np.testing.assert_allclose(np.asarray(fitted).ravel(), expected)
    assert np.asarray(mask).all()


def test_slots_over_padding_alone_are_marked():
    mask = jnp.array([[True, True, False, False]])
    np.testing.assert_array_equal(fit_to_slots(states(4), mask, 2)[1], [[True, False]])
    np.testing.assert_array_equal(fit_to_slots(states(4), mask, 4)[1], mask)


def test_cosines_by_row():
    updated = jnp.array([[[[3.0, 4.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])  # [L=1 B=2 S=2 D=2]
    target = jnp.array([[[[6.0, 8.0], [0.0, 2.0]], [[-1.0, 0.0], [0.0, 1.0]]]])
    np.testing.assert_allclose(cosine_by_row(updated, target), [0.5, 0.0], atol=1e-6)
    masked = cosine_by_row(updated, target, jnp.array([[True, False], [False, False]]))
    np.testing.assert_allclose(masked, [1.0, 0.0], atol=1e-6)


def test_a_zero_vector_has_a_finite_slope():
    slope = jax.grad(lambda u: cosine_by_row(u, jnp.ones((1, 1, 1, 2))).sum())(jnp.zeros((1, 1, 1, 2)))
    assert np.isfinite(slope).all()


@jax.jit
def _whole(hidden, kernel, ids, labels):
    def loss(hidden, kernel):
        found = answer_cross_entropy(hidden @ kernel, ids, labels)
        return found.loss, found

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, kernel)


@jax.jit
def _projected(hidden, kernel, ids, labels):
    def loss(hidden, kernel):
        found = projected_answer_cross_entropy(lambda some: some @ kernel, hidden, ids, labels)
        return found.loss, found

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, kernel)


@settings(deadline=None, max_examples=20)
@given(shape=st.sampled_from([(1, 2), (8, 11), (6, 5), (2, 530)]), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_projected_cross_entropy_is_that_of_all_logits(shape, share, seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    hidden = jax.random.normal(keys[0], (*shape, 5))
    kernel = jax.random.normal(keys[1], (5, 7))
    ids = jax.random.randint(keys[2], shape, 0, 7)
    labels = jax.random.bernoulli(keys[3], share, shape)
    chex.assert_trees_all_close(
        _projected(hidden, kernel, ids, labels), _whole(hidden, kernel, ids, labels), rtol=1e-5, atol=1e-5
    )


def test_what_is_not_scored_has_no_gradient_even_if_it_is_broken():
    mask = jnp.array([[True, False, False]])
    slope = jax.grad(lambda logits: token_cross_entropy(logits, jnp.array([[2, 0, 0]]), mask).loss)
    assert bool(jnp.all(jnp.isfinite(slope(LOGITS.at[0, 1].set(jnp.inf)))))


@jax.jit
def _plain_and_doubled(logits, ids, scored):
    weights = (None, 2.0 * scored)
    return [projected_sequence_log_probs(lambda x: x, logits, ids, scored, each) for each in weights]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=3),  # one shape compiles once
    st.floats(0.0, 1.0),
    st.integers(),
)
@settings(max_examples=40, deadline=None)
def test_tokens_beyond_the_shared_length_count_less(lengths, alpha, seed):
    """Rows of two answers behind one prompt token; an answer without a token shortens no other."""
    rng = np.random.default_rng(abs(seed))
    mask = np.arange(8) < 1 + np.array(lengths)[..., None]
    mask[..., 0] = False
    weights = np.asarray(shared_length_weights(jnp.asarray(mask), alpha))
    for row, (first, second) in zip(weights, lengths, strict=True):
        shared = min(first or 8, second or 8)
        for each, length in zip(row, (first, second), strict=True):
            expected = [1.0 if place < shared else alpha for place in range(length)]
            np.testing.assert_allclose(each, [0.0, *expected, *[0.0] * (7 - length)], atol=1e-6)
    logits = jnp.asarray(rng.normal(size=(len(lengths), 8, 5)), jnp.float32)
    ids, scored = jnp.asarray(rng.integers(0, 5, (len(lengths), 8))), jnp.asarray(mask[:, 0])
    plain, both = _plain_and_doubled(logits, ids, scored)
    np.testing.assert_allclose(both.total, 2.0 * plain.total, rtol=1e-5)
    np.testing.assert_array_equal(both.length, plain.length)
