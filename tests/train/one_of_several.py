"""One process of several that train together, for the tests beside it; it takes what `rxt train` takes."""

import sys
import time

from rxt_jax import run_stage
from rxt_jax.cli import train

PAUSE = 0.5
place_batch = run_stage.place_batch


def slowly(*arguments):
    """Leave time to be stopped between two updates."""
    time.sleep(PAUSE)
    return place_batch(*arguments)


run_stage.place_batch = slowly
if "--show" not in sys.argv:
    train._show = lambda *_: None
sys.exit(train.run([word for word in sys.argv[1:] if word != "--show"]))
