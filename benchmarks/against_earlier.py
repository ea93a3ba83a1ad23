"""This version against an earlier one, in one run: training steps, starts, turns of a session, generation.

    python benchmarks/against_earlier.py --earlier 9661e6f --work stage-4

The earlier version is a commit (checked out beside this one for the run) or the folder of a source tree. Both are
processes that wait for each other, so that a step of one is followed by a step of the other and both see the same
machine. Starts are whole processes, from nothing to the end of the first step: the earlier version, this one with an
empty compilation cache, and with a full one. CPU seconds are what all cores worked; where others share them, they say more
than seconds. A ratio is this version's time over the earlier one's: below 1 this one is faster.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

ROOT = Path(__file__).parent.parent

Work = Literal["stage-4", "stage-4-published", "stage-1", "history-reading", "dmpo", "session", "generation"]
"""`stage-4-published` updates after every interaction; `session` has turns of about 32 + 64 tokens; `generation` makes
64 tokens in `rows` rows."""

# Runs in both versions, so it uses only what both have. A line on standard input asks for one more time.
CHILD = """
import functools, json, resource, sys, time
from dataclasses import replace
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
try:
    from rxt_jax.cli.compilation_cache import use_compilation_cache
    use_compilation_cache()
except ImportError:
    pass
from rxt_jax.cli.benchmark import random_conversations
from rxt_jax.model import presets
try:
    from rxt_jax.model.fresh_parameters import build_model
except ImportError:
    from rxt_jax.run import build_model
from rxt_jax.stages import DirectMemoryPreference, HistoryReading, JointPretraining, MemoryAware
from rxt_jax.types import PreferenceBatch, RowBatch

work, preset, rows, interactions = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = presets.PRESETS[preset]()
length = config.max_length


def training_step():
    from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
    from rxt_jax.train.state import make_train_state
    from rxt_jax.train.step import make_train_step

    stage, batch = {
        "stage-4": lambda: (MemoryAware(), conversations()),
        "stage-4-published": lambda: (MemoryAware(memory_gradient_steps=1, interactions_per_update=1), conversations()),
        "stage-1": lambda: (JointPretraining(), texts()),
        "history-reading": lambda: (HistoryReading(), conversations()),
        "dmpo": lambda: (DirectMemoryPreference(), preferences()),
    }[work]()
    graphdef, params = nnx.split(build_model(config, 0))
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=1000, trainable=stage.trainable)
    try:
        state = make_train_state(params, optimizer, stage)
    except TypeError:
        state = make_train_state(params, optimizer, reference_groups=getattr(stage, "reference_groups", ()))
    step = make_train_step(graphdef, stage, optimizer, seed=0)

    def once():
        nonlocal state
        began = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        total, count = (float(each) for each in metrics["loss"])
        return {"step": time.perf_counter() - began}, total / count

    return once


def conversations():
    return random_conversations(config.vocab_size, interactions, rows, length)


def texts():
    batch = random_conversations(config.vocab_size, 1, rows, length)
    hidden = np.random.default_rng(2).random(batch.ids[0].shape) < 0.15
    fields = dict(ids=batch.ids[0], token_mask=batch.token_mask[0], loss_mask=batch.token_mask[0], mlm_mask=hidden)
    if "masked_ids" in RowBatch._fields:
        fields["masked_ids"] = np.where(hidden, np.int32(4), batch.ids[0])
    return RowBatch(**fields)


def preferences():
    chosen = conversations()
    others = np.random.default_rng(1).integers(11, config.vocab_size, chosen.ids.shape).astype(np.int32)
    rejected = chosen._replace(ids=np.where(chosen.loss_mask, others, chosen.ids))
    return PreferenceBatch(chosen, rejected, rejected._replace(valid=np.zeros_like(chosen.valid)))


def session_turn():
    from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
    from rxt_jax.serving import ChatSession

    words = np.random.default_rng(3).integers(97, 123, (400, 5)).astype(np.uint8)
    words = [bytes(word).decode() for word in words]
    lines = (" ".join(np.random.default_rng(seed).choice(words, 12)) for seed in range(400))
    tokenizer = train_tokenizer(lines, TokenizerConfig(vocab_size=600))
    model = build_model(replace(config, vocab_size=tokenizer.vocab_size), 0)
    session, query = ChatSession(model, tokenizer, reply_tokens=64), " ".join(words[:10])

    def once():
        jax.block_until_ready(session.memory)
        began = last = time.perf_counter()
        first, characters = None, 0
        for chunk in session.send(query):
            last = time.perf_counter()
            first, characters = first or last - began, characters + len(chunk)
        jax.block_until_ready(session.memory)
        end = time.perf_counter()
        return {"first text": first, "memory write": end - last, "turn": end - began}, characters

    return once


def generation():
    model = build_model(config, 0)
    graphdef, params = nnx.split(model)
    ids = jnp.asarray(np.random.default_rng(0).integers(11, config.vocab_size, (rows, 32)))
    mask, memory = jnp.ones(ids.shape, bool), model.initial_memory(rows, jax.random.key(0))

    @jax.jit
    def make(params, memory, ids):
        model = nnx.merge(graphdef, params)
        try:
            from rxt_jax.model.generation import generate
            from rxt_jax.model.generation_rules import make_rules
        except ImportError:
            from rxt_jax.serving.generation import generate
            from rxt_jax.serving.sampling import SamplingConfig
            options = dict(max_new_tokens=64, end_id=-1, sampling=SamplingConfig())
            return generate(model, memory, ids, mask, jax.random.key(0), **options).ids
        rules = make_rules(rows, jax.random.key(0))
        return generate(model, memory, ids, mask, rules, max_new_tokens=64, end_id=-1).ids

    def once():
        began = time.perf_counter()
        made = jax.block_until_ready(make(params, memory, ids))
        return {"64 tokens": time.perf_counter() - began}, int(jnp.sum(made))

    return once


once = {"session": session_turn, "generation": generation}.get(work, training_step)()
while True:
    worked = time.process_time()
    seconds, result = once()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts = {"seconds": seconds, "cpu_seconds": time.process_time() - worked, "since_start": time.process_time()}
    print(json.dumps(facts | {"result": result, "peak_mib": peak}), flush=True)
    if not sys.stdin.readline():
        break
"""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    earlier: str
    """Commit, or folder of a source tree."""
    work: Work = "stage-4"
    """What is done."""
    preset: Literal["toy", "rxt_alpha_micro", "rxt_alpha_micro_plus"] = "rxt_alpha_micro"
    """The model, in float32."""
    rows: int = 8
    """Conversations, texts (stage 1) or rows of generation."""
    interactions: int = 4
    """Of every conversation."""
    times: int = 6
    """How often each version does it after its first time."""
    starts: int = 0
    """Starts of each kind; the fastest counts."""


class Version:
    """One process with one version of the package, from its start to the steps it is asked for."""

    def __init__(self, folder: Path, cache: Path, options: Options):
        given = [options.work, options.preset, str(options.rows), str(options.interactions)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
        environment |= {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(cache)}
        pipe = subprocess.PIPE
        began = time.perf_counter()
        command = [sys.executable, "-c", CHILD, *given]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=folder)
        self.first = self._answer()
        self.start_seconds = time.perf_counter() - began

    def again(self) -> dict[str, Any]:
        """Let it do its work once more."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the version under test ended; its message is above.")
        return json.loads(line)


def main(options: Options) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        if Path(options.earlier).is_dir():
            print(json.dumps(measure(Path(options.earlier).resolve(), Path(scratch), options), indent=1))
            return
        earlier = Path(scratch) / "earlier"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(earlier), options.earlier], check=True)
        try:
            print(json.dumps(measure(earlier, Path(scratch), options), indent=1))
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True)


def measure(earlier: Path, scratch: Path, options: Options) -> dict[str, Any]:
    """Start everything in turn, then work in turn; the fastest and the median of each count."""
    facts: dict[str, Any] = {"work": options.work, "load before": os.getloadavg()}
    starts: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.starts):
        cache = scratch / f"cache{number}"
        for name, folder in (("earlier", earlier), ("now", ROOT), ("now, compiled before", ROOT)):
            version = Version(folder, cache, options)
            version.stop()
            starts.setdefault(name, []).append((version.start_seconds, version.first["since_start"]))
    for place, unit in enumerate(("seconds", "cpu seconds") if starts else ()):
        facts[f"start, {unit}"] = {name: round(min(one[place] for one in found), 1) for name, found in starts.items()}
    versions = {
        name: Version(folder, scratch / "cache", options) for name, folder in (("earlier", earlier), ("now", ROOT))
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
    for number in range(options.times):
        # Whoever comes second finds warmer caches or a longer queue, so they take turns at that as well.
        for name in list(versions)[:: 1 if number % 2 else -1]:
            found[name].append(versions[name].again())
    for version in versions.values():
        version.stop()
    measures = {name: [one["seconds"] for one in times] for name, times in found.items()}
    units = {
        unit: {name: [one[unit] for one in times] for name, times in measures.items()} for unit in measures["now"][0]
    }
    units["cpu seconds"] = {name: [one["cpu_seconds"] for one in times] for name, times in found.items()}
    for unit, times in units.items():
        for word, choose in (("best", min), ("median", statistics.median)):
            chosen = {name: round(choose(each), 4) for name, each in times.items()}
            facts[f"{unit}, {word}"] = chosen | {"ratio": round(chosen["now"] / chosen["earlier"], 3)}
    facts["first result"] = {name: version.first["result"] for name, version in versions.items()}
    facts["peak MiB"] = {name: round(times[-1]["peak_mib"]) for name, times in found.items()}
    facts["load after"] = os.getloadavg()
    return facts


if __name__ == "__main__":
    main(tyro.cli(Options))
