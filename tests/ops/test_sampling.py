"""Sampling against the same rules in NumPy, row by row, and against the distributions it draws from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rxt_jax.ops import Sampling, filter_logits, sample

ROWS, VOCABULARY = 5, 12
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

jitted_filter, jitted_sample = jax.jit(filter_logits), jax.jit(sample)


def sampling_of(rows):
    """Make the arrays of rows given as dicts."""
    kinds = {"temperature": np.float32, "top_k": np.int32, "top_p": np.float32, "min_p": np.float32}
    return Sampling(**{name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def filtered_row(logits, row):
    """Filter one row `[V]` as a reader of the rules would: rank, walk, drop."""
    if row["temperature"] == 0:
        return np.where(np.arange(len(logits)) == np.argmax(logits), 0.0, -np.inf)
    logits = logits.astype(np.float64) / np.float32(row["temperature"])
    order = np.argsort(-logits, kind="stable")
    kept = set(order.tolist())
    if row["top_k"]:
        smallest = logits[order[min(row["top_k"], len(logits)) - 1]]
        kept = {token for token in kept if logits[token] >= smallest}
    if row["top_p"] < 1:
        weights = {token: np.exp(logits[token] - logits[order[0]]) for token in kept}
        total, before, passed = sum(weights.values()), 0.0, set()
        for token in (each for each in order.tolist() if each in kept):
            if before / total <= row["top_p"]:
                passed.add(token)
            before += weights[token]
        kept = passed
    floor = logits[order[0]] + np.log(row["min_p"]) if row["min_p"] else -np.inf
    return np.array([value if i in kept and value >= floor else -np.inf for i, value in enumerate(logits)])


def rows_strategy():
    row = st.fixed_dictionaries(
        {
            "temperature": st.one_of(st.just(0.0), st.floats(0.1, 4.0)),
            "top_k": st.one_of(st.just(0), st.integers(1, VOCABULARY + 3)),
            "top_p": st.one_of(st.just(1.0), st.floats(0.05, 1.0)),
            "min_p": st.one_of(st.just(0.0), st.floats(0.01, 0.9)),
        }
    )
    return st.lists(row, min_size=ROWS, max_size=ROWS)


def draw_logits(seed, tied=False):
    """Make logits `[B V]`; `tied` makes many of them equal."""
    logits = np.random.default_rng(seed).normal(size=(ROWS, VOCABULARY)) * 2
    return np.round(logits).astype(np.float32) if tied else logits.astype(np.float32)


def near_the_edge(logits, row):
    """Tell whether rounding decides what a row keeps: a sum at top-p, or a token at the floor of min-p."""
    if row["temperature"] == 0:
        return False
    scaled = np.sort(logits.astype(np.float64) / np.float32(row["temperature"]))[::-1]
    if row["top_k"]:
        scaled = scaled[scaled >= scaled[min(row["top_k"], len(scaled)) - 1]]
    sums = np.cumsum(np.exp(scaled - scaled[0])) / np.sum(np.exp(scaled - scaled[0]))
    floor = scaled[0] + np.log(row["min_p"]) if row["min_p"] else -np.inf
    return np.min(np.abs(sums - row["top_p"])) < 1e-5 or np.min(np.abs(scaled - floor)) < 1e-4


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), rows_strategy())
def test_every_row_is_filtered_by_its_own_settings(seed, rows):
    logits = draw_logits(seed)
    found = np.asarray(jitted_filter(logits, sampling_of(rows)))
    for row, one in enumerate(rows):
        if not near_the_edge(logits[row], one):
            np.testing.assert_allclose(found[row], filtered_row(logits[row], one), rtol=1e-5, err_msg=str(one))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, VOCABULARY), st.floats(0.1, 3.0))
def test_ties_at_the_last_place_of_top_k_stay(seed, top_k, temperature):
    logits = draw_logits(seed, tied=True)
    row = OFF | {"temperature": temperature, "top_k": top_k}
    found = np.asarray(jitted_filter(logits, sampling_of([row] * ROWS)))
    assert (np.isfinite(found).sum(-1) >= top_k).all()
    for each, one in zip(found, logits, strict=True):
        np.testing.assert_allclose(each, filtered_row(one, row), rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), rows_strategy())
def test_the_best_token_stays_and_a_row_that_is_alone_is_filtered_as_in_a_batch(seed, rows):
    logits = draw_logits(seed)
    found = np.asarray(jitted_filter(logits, sampling_of(rows)))
    assert np.isfinite(found[np.arange(ROWS), np.argmax(logits, axis=-1)]).all()
    for row in range(ROWS):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(jitted_filter(logits[one], sampling_of(rows[one])), found[one])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), rows_strategy(), st.integers(0, 50))
def test_drawn_tokens_are_allowed_ones_with_their_log_probabilities(seed, rows, number):
    logits, sampling = draw_logits(seed), sampling_of(rows)
    keys, numbers = jax.random.split(jax.random.key(seed), ROWS), jnp.arange(ROWS) + number
    ids, log_probs = jitted_sample(logits, sampling, keys, numbers)
    expected = jax.nn.log_softmax(jitted_filter(logits, sampling))[np.arange(ROWS), ids]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)
    for row, one in enumerate(rows):
        if one["temperature"] == 0:
            assert (ids[row], log_probs[row]) == (np.argmax(logits[row]), 0)
        alone = slice(row, row + 1)
        single, _ = jitted_sample(logits[alone], sampling_of(rows[alone]), keys[alone], numbers[alone])
        assert single[0] == ids[row]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"temperature": 1.0}, [0.5, 0.3, 0.2]),
        ({"temperature": 0.5}, [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]),
        ({"temperature": 1.0, "top_k": 2}, [0.625, 0.375, 0]),
        ({"temperature": 1.0, "top_p": 0.4}, [1, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.6}, [0.625, 0.375, 0]),
        ({"temperature": 1.0, "min_p": 0.5}, [0.625, 0.375, 0]),
        ({"temperature": 0.0, "top_p": 0.9}, [1, 0, 0]),
    ],
)
def test_draws_follow_the_distribution(row, expected):
    count = 4000
    logits = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), (count, 1))
    keys = jnp.repeat(jax.random.key(0)[None], count)  # one key: a token's number makes its draw another one
    ids, _ = sample(logits, sampling_of([OFF | row] * count), keys, jnp.arange(count))
    np.testing.assert_allclose(np.bincount(ids, minlength=3) / count, expected, atol=0.03)
