"""DMPO step against the stage-4 step on the same conversations, and what chunking spares.

    python benchmarks/preference_speed.py

Every interaction has a pair, so nothing is skipped. The floor is the ratio of the operations that have to be done:
with w for writing and r for decoding a token, and with what writes computed again in the backward pass (remat),
stage 4 costs 4 w + 3 r, DMPO 4 w + 6 r for two answers and 2 r for the reference's.
"""

import json
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx

from rxt_jax.cli.benchmark import best_time, random_conversations
from rxt_jax.model import ModelConfig, presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.model.operation_count import count_operations
from rxt_jax.stages import DirectMemoryPreference, MemoryAware
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import PreferenceBatch


@dataclass(frozen=True)
class Options:
    """Sizes."""

    preset: Literal["toy", "rxt_alpha_micro", "rxt_alpha_micro_plus"] = "rxt_alpha_micro"
    interactions: int = 4
    batch_size: int = 4
    length: int = 256
    steps: int = 3
    vocab_size: int = 32768
    """Of the model whose peak memory is measured."""


def build(config: ModelConfig, stage: Any) -> tuple[Any, Any]:
    """Make the train step and the state it begins with."""
    graphdef, params = nnx.split(build_model(config, 0))
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=1000, trainable=stage.trainable)
    state = make_train_state(params, optimizer, stage)
    return make_train_step(graphdef, stage, optimizer, seed=0), state


def seconds(config: ModelConfig, stage: Any, batch: Any, steps: int) -> float:
    """Time the fastest of several steps."""
    step, state = build(config, stage)

    def once() -> object:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return best_time(once, steps)


def scratch(config: ModelConfig, stage: Any, batch: Any) -> float:
    """Measure what a step allocates beside its arguments and results, in MiB, from the compiled program."""
    step, state = build(config, stage)
    return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes / 2**20


def preferences(config: ModelConfig, options: Options) -> PreferenceBatch:
    """Pairs that share their first half."""
    batch = random_conversations(config.vocab_size, options.interactions, options.batch_size, options.length)
    others = np.random.default_rng(1).integers(11, config.vocab_size, batch.ids.shape).astype(np.int32)
    rejected = batch._replace(ids=np.where(batch.loss_mask, others, batch.ids))
    return PreferenceBatch(batch, rejected, rejected._replace(valid=np.zeros_like(batch.valid)))


def main(options: Options) -> None:
    """Measure and print."""
    config = presets.PRESETS[options.preset]()
    config = replace(config, max_length=max(config.max_length, options.length))
    operations = count_operations(config, options.length)
    # Half of the tokens of a row are its answer; the head sees no others.
    write, read = operations.encode + operations.write, operations.read + operations.head * options.length / 2
    batch = preferences(config, options)
    tokens = batch.chosen.ids.size
    smat = seconds(config, MemoryAware(), batch.chosen, options.steps)
    facts: dict[str, Any] = {"device": jax.devices()[0].device_kind, "stage 4 tokens/s": round(tokens / smat)}
    for name, stage, factor in (
        ("decoder", DirectMemoryPreference(), 8.0),
        ("none", DirectMemoryPreference(reference="none"), 6.0),
    ):
        dmpo = seconds(config, stage, batch, options.steps)
        floor = (4.0 * write + factor * read) / (4.0 * write + 3.0 * read)
        facts[f"reference {name}"] = {
            "tokens/s": round(tokens / dmpo),
            "time against stage 4": round(dmpo / smat, 2),
            "floor": round(floor, 2),
            "against the floor": round(dmpo / smat / floor, 2),
        }
    large = replace(config, vocab_size=options.vocab_size)
    batch = preferences(large, options)
    facts["scratch MiB"] = {"chunked": round(scratch(large, DirectMemoryPreference(), batch))}
    logits = replace(DirectMemoryPreference(), interactions_per_call=options.interactions)
    facts["scratch MiB"]["all interactions in one call"] = round(scratch(large, logits, batch))
    # The package has a function of the module's name.
    places = sys.modules["rxt_jax.losses.token_log_probs"]
    places._CHUNKS, places._PLACES = 1, options.length
    facts["scratch MiB"]["and all places at once"] = round(scratch(large, logits, batch))
    facts["one float32 array of all logits, MiB"] = round(2 * batch.chosen.ids.size * large.vocab_size * 4 / 2**20)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options))
