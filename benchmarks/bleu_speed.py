"""BLEU on the device against NLTK's loop, by batch size and length.

    python benchmarks/bleu_speed.py        # this machine, about two minutes; prints the table of bleu_speed.md

Candidates are references half of whose tokens were replaced. NLTK scores one sentence after another, as rewards were
computed before; tokens are lists on the host already. Both times are the fastest of a few calls, in wall time and in
processor time, which other work on the machine changes less.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import sentence_bleu as nltk_sentence_bleu

from rxt_jax.ops.bleu import bleu_counts, sentence_bleu


@dataclass(frozen=True)
class Options:
    """What to measure."""

    lengths: tuple[int, ...] = (256, 1024)
    batches: tuple[int, ...] = (32, 64, 128, 256, 512)
    vocabulary: int = 8192
    repeats: int = 3


@jax.jit
def on_device(candidates: jax.Array, references: jax.Array) -> jax.Array:
    """Score a batch whose tokens are all real."""
    masks = (jnp.ones(each.shape, bool) for each in (candidates, references))
    own, theirs = masks
    return sentence_bleu(bleu_counts(candidates, own, references, theirs), smoothing="chen_cherry")


def in_a_loop(candidates: list[list[int]], references: list[list[int]]) -> list[float]:
    """Score sentence by sentence."""
    smoothing = SmoothingFunction().method4
    pairs = zip(candidates, references, strict=True)
    return [nltk_sentence_bleu([theirs], own, smoothing_function=smoothing) for own, theirs in pairs]


def fastest(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Time the fastest of several calls: wall seconds, processor seconds."""
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return min(walls), min(processors)


def main(options: Options) -> None:
    """Measure, check that both agree, print."""
    rng, results = np.random.default_rng(0), []
    print("| tokens | batch | NLTK s | device s | faster | NLTK cpu s | device cpu s | faster |")
    print("|---|---|---|---|---|---|---|---|")
    for length in options.lengths:
        for batch in options.batches:
            references = rng.integers(1, options.vocabulary, (batch, length)).astype(np.int32)
            noise = rng.integers(1, options.vocabulary, (batch, length)).astype(np.int32)
            candidates = np.where(rng.random((batch, length)) < 0.5, noise, references)
            lists = candidates.tolist(), references.tolist()
            arrays = jnp.asarray(candidates), jnp.asarray(references[:, None])
            np.testing.assert_allclose(on_device(*arrays), in_a_loop(*lists), rtol=1e-4, atol=1e-6)
            slow = fastest(lambda lists=lists: in_a_loop(*lists), 1 if batch * length > 2**16 else options.repeats)
            fast = fastest(lambda arrays=arrays: on_device(*arrays), options.repeats)
            cells = [f"{slow[0]:.3f}", f"{fast[0]:.3f}", f"{slow[0] / fast[0]:.1f}"]
            cells += [f"{slow[1]:.3f}", f"{fast[1]:.3f}", f"{slow[1] / fast[1]:.1f}"]
            print(f"| {length} | {batch} | {' | '.join(cells)} |", flush=True)
            results.append({"tokens": length, "batch": batch, "nltk": slow, "device": fast})
    print(json.dumps({"device": jax.devices()[0].device_kind, "results": results}))


if __name__ == "__main__":
    main(tyro.cli(Options))
