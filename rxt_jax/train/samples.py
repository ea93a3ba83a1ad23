"""Conversations that an acting stage leads now and then, for people to look at: `samples/STAGE/update-N.txt`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.stages.stage import Stage
from rxt_jax.train.state import TrainState

__all__ = ["make_sampler"]


def make_sampler(
    stage: Stage, act: Callable[[TrainState, Any, int], Any], batch: Any, tokenizer: Tokenizer, folder: Path
) -> Callable[[TrainState, int], None]:
    """Make `(state, update) -> None`, which leads the conversations of `batch` and writes them into the folder.

    They are the same ones every time, drawn with the same key, so that one sees what the updates between changed.
    """

    def sample(state: TrainState, update: int) -> None:
        acted = act(state, batch, 0)
        several = jax.process_count() > 1
        acted = multihost_utils.process_allgather(acted, tiled=True) if several else jax.device_get(acted)
        if jax.process_index() > 0:
            return
        text = "\n\n".join(stage.transcripts(acted, tokenizer))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"update-{update:06d}.txt").write_text(text + "\n", encoding="utf-8")

    return sample
