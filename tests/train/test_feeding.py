"""The way of batches to the device: one ahead, in order, and an honest account of waiting."""

import time

import numpy as np
import pytest

from rxt_jax.train.feeding import Feed
from rxt_jax.types import RowBatch


class Update:
    def __init__(self, ready):
        self.ready = ready

    def is_ready(self):
        return self.ready


def numbered(count, delay=0.0):
    for number in range(count):
        time.sleep(delay)
        mask = np.arange(4) < number
        yield RowBatch(np.full((1, 4), number), mask[None], mask[None], mask[None])


def test_batches_are_placed_one_ahead_in_order_and_never_more_than_are_needed():
    placed = []
    feed = Feed(numbered(3), lambda batch: placed.append(int(batch.ids[0, 0])) or batch)
    taken = []
    for update in range(1, 4):
        taken.append(feed.take())
        feed.refill(3 - update)
        assert placed == list(range(min(update + 1, 3)))
    assert [int(each.batch.ids[0, 0]) for each in taken] == [0, 1, 2]
    assert [each.tokens for each in taken] == [0, 1, 2]


@pytest.mark.parametrize(("ready", "idle"), [(True, 0.05), (False, 0.0)])
def test_waiting_counts_only_where_the_device_has_nothing_to_do(ready, idle):
    feed = Feed(numbered(2, delay=0.05), lambda batch: batch)
    feed.take(None)
    feed.refill(1, Update(ready))
    assert (feed.idle_seconds > 0) == ready
    assert feed.idle_seconds >= idle
