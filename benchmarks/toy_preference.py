"""Preferences that only memory can decide: accuracy before and after DMPO, with memory and without.

    rxt train configs/toy.py && rxt train configs/toy_preference.py && python benchmarks/toy_preference.py

Held-out conversations; an answer is preferred where log π(accepted) > log π(rejected), the two differing in the value that they name.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from rxt_jax.data.config import DialogueData
from rxt_jax.data.loader import PreferenceBatches
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.model.episode import scan_memories
from rxt_jax.run_folder import load
from rxt_jax.stages import DirectMemoryPreference
from rxt_jax.stages.memory_aware import write_previous


@dataclass(frozen=True)
class Options:
    """Which models, on how much."""

    runs: tuple[str, ...] = ("runs/toy/stages/memory_pretraining", "runs/toy_preference")
    batches: int = 8
    batch_size: int = 32


def write(model: Any, memory: Any, answers: Any, key: Any) -> Any:
    return jnp.float32(0.0), (write_previous(model, memory, answers.interaction, key)[0], {})


@functools.partial(jax.jit, static_argnums=(0, 1))
def accuracies(graphdef: Any, stage: DirectMemoryPreference, params: Any, batch: Any) -> tuple[Any, Any]:
    """Count pairs that are decided rightly, with memory and with zeroed memory, and all pairs."""
    model = nnx.merge(graphdef, params)
    answers = stage.interactions(batch)
    first = stage.begin(model, answers.paired.shape[1], None).policy
    memories, _ = scan_memories(write, model, first, answers, None)
    right = []
    for read in (memories, jnp.zeros_like(memories)):
        total = stage._score(model, read, answers, None)[0].total
        right.append(jnp.sum((total[..., 0] > total[..., 1]) & answers.paired))
    return jnp.stack(right), jnp.sum(answers.paired)


def main(options: Options) -> None:
    """Measure and print."""
    for name in options.runs:
        run = load(name)
        encoder = RowEncoder(run.tokenizer, run.recipe.data)
        source = run.recipe.data.source
        assert isinstance(source, DialogueData)
        held_out = open_source(replace(source, split="iid", seed=1, preferences=True))
        batches = PreferenceBatches(held_out, encoder, batch_size=options.batch_size, seed=0)
        graphdef, params = nnx.split(run.model)
        stage = DirectMemoryPreference(reference="none")
        found = [accuracies(graphdef, stage, params, batches[n]) for n in range(options.batches)]
        right, pairs = (sum(each[i] for each in found) for i in range(2))
        print(f"{name}: {int(pairs)} pairs, right with memory {right[0] / pairs:.3f}, zeroed {right[1] / pairs:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
