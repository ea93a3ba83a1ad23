"""Stopping a run from within, as whoever watches over a machine would."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rxt_jax import run_stage


@contextmanager
def stopped_in_update(updates: int) -> Iterator[None]:
    """Send ourselves SIGTERM in the middle of the n-th update of every stage that is trained inside the `with`."""
    original = run_stage.make_train_step

    def make(*arguments, **options):
        step, count = original(*arguments, **options), [0]

        def stepped(state, batch):
            count[0] += 1
            if count[0] == updates:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        return stepped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_stage, "make_train_step", make)
        yield
