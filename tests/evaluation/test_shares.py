"""How sure a share is, and distances that are joined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxt_jax.evaluation.report import ConditionResult
from rxt_jax.evaluation.shares import pool_distances, standard_error


def test_a_standard_error_is_that_of_a_binomial_share_and_never_zero():
    assert standard_error(500, 1000) == pytest.approx(0.5 / 1000**0.5, rel=1e-6)
    assert standard_error(0, 0) is None
    assert standard_error(4, 4) == pytest.approx((5 / 36 / 4) ** 0.5)
    assert standard_error(0, 4) == pytest.approx((5 / 36 / 4) ** 0.5)


counts = st.integers(0, 30).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked)))


@given(st.dictionaries(st.integers(1, 120), counts, max_size=20), st.integers(1, 40))
def test_pools_hold_every_question_and_enough_of_them(by_distance, least):
    pools = pool_distances(by_distance, least)
    asked = sum(asked for _, asked in by_distance.values())
    assert bool(pools) == bool(asked)
    assert len(pools) <= max(asked // least, 1)
    assert [pool.distance for pool in pools] == sorted(pool.distance for pool in pools)
    if asked and asked < 2 * least:  # too few for two pools
        right = sum(right for right, _ in by_distance.values())
        mean = sum(distance * each for distance, (_, each) in by_distance.items()) / asked
        assert pools == [(pytest.approx(mean), right / asked, standard_error(right, asked))]


def test_distances_with_enough_questions_stand_alone():
    by_distance = {1: [10, 20], 2: [5, 25], 30: [4, 12], 60: [0, 8], 100: [1, 3]}
    pools = pool_distances(by_distance, 20)
    assert [pool.distance for pool in pools] == [1, 2, pytest.approx((30 * 12 + 60 * 8 + 100 * 3) / 23)]
    assert [pool.share for pool in pools] == [0.5, 0.2, pytest.approx(5 / 23)]


def test_a_summary_says_how_sure_its_shares_are():
    result = ConditionResult(by_distance={1: [3, 4]}, absences=[1, 5], two_of_a_type=[0, 2])
    errors = result.summary()["standard_errors"]
    assert errors["recall"] == errors["recall_by_bucket"]["1"] == standard_error(3, 4)
    assert errors["made_up_rate"] == standard_error(4, 5)
    assert errors["recall_by_bucket"]["17+"] is None and errors["absent_rate"] is None
