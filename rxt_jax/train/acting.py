"""Batches that are made with the state at hand (rollouts): a function of (seed, update, state before the update).

What is read for an update is prefetched like any other batch; acting follows when the state before that update is
there. Nothing random is saved, so a run that goes on acts as one that was never interrupted.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from rxt_jax.stages.stage import Stage
from rxt_jax.train.state import TrainState
from rxt_jax.train.step import step_root

__all__ = ["make_acting"]

_ACTING = 0x80414354  # no update has this number, whose key the train step folds from the same root


def make_acting(
    graphdef: nnx.GraphDef, stage: Stage, tokenizer: Any, *, seed: int, stream: int = 0, held_out: bool = False
) -> Callable[[TrainState, Any, int], Any] | None:
    """Make `(state, batch, update) -> batch` for a stage that acts, None for one that trains on what it reads."""
    act = stage.make_act(graphdef, tokenizer, held_out=held_out)
    if act is None:
        return None
    root = jax.random.fold_in(step_root(seed, stream), _ACTING)
    return lambda state, batch, update: act(state.params, state.carry, batch, update, jax.random.fold_in(root, update))
