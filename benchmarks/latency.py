"""Latency over a conversation: this model against the stateless baseline of equal parameters.

    python benchmarks/latency.py       # Micro preset, 32 turns; writes latency.md, latency.json, latency.png

Parameters are random (time does not depend on them) and every reply has the same number of tokens. The baseline
runs with the cache of the whole conversation kept between turns, and without it. Each conversation is walked once
to compile and then `--passes` times; the fastest pass of each turn counts, because other work on the machine only
ever adds time.
"""

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from flax import nnx

from rxt_jax.cli.inspect import count_parameters
from rxt_jax.data.config import DialogueData
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.model import presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.model.generation import Generation, extend, prefill, read
from rxt_jax.model.generation_rules import Rules, make_rules
from rxt_jax.serving import ChatSession, chat_session

HERE = Path(__file__).parent
SMALLEST_BUCKET = 32
NO_TOKEN = -1  # nothing ends a reply: all have the same length


@dataclass(frozen=True)
class Options:
    """What to measure."""

    preset: str = "rxt_alpha_micro"
    turns: int = 32
    query_tokens: int = 32
    reply_tokens: int = 32
    passes: int = 3
    device_name: str | None = None
    """How the machine is called in the report."""


@functools.partial(jax.jit, static_argnums=(0, 6))
def begin(graphdef: Any, params: Any, memory: Any, ids: Any, mask: Any, rules: Rules, width: int) -> Generation:
    return prefill(nnx.merge(graphdef, params), memory, ids, mask, rules, width)


@functools.partial(jax.jit, static_argnums=(0, 6))
def go_on(graphdef: Any, params: Any, kept: Generation, ids: Any, mask: Any, rules: Rules, width: int) -> Generation:
    return read(nnx.merge(graphdef, params), _wider(kept, width), ids, mask, rules, width)


@functools.partial(jax.jit, static_argnums=(0, 4), donate_argnums=2)
def reply(graphdef: Any, params: Any, cache: Any, rest: Generation, count: int) -> Any:
    return extend(nnx.merge(graphdef, params), rest._replace(cache=cache), count, end_id=NO_TOKEN)


@functools.partial(jax.jit, static_argnums=0)
def write(graphdef: Any, params: Any, memory: Any, ids: Any, mask: Any) -> Any:
    model = nnx.merge(graphdef, params)
    return model.update_memory(memory, model.encode(ids, mask), mask)


def _wider(kept: Generation, width: int) -> Generation:
    def widen(leaf: Any) -> Any:
        axis = 1 if leaf.ndim == 2 else 2
        room = [(0, 0)] * leaf.ndim
        room[axis] = (0, width - leaf.shape[axis])
        return jnp.pad(leaf, room)

    return kept._replace(cache=jax.tree.map(widen, kept.cache))


class Clock:
    """Seconds since the last look, after the given arrays are there."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self, arrays: Any) -> float:
        jax.block_until_ready(arrays)
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed


def bucket(length: int) -> int:
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def padded(ids: np.ndarray, length: int) -> tuple[Any, Any]:
    row = np.zeros((1, length), np.int32)
    row[0, : len(ids)] = ids
    return jnp.asarray(row), jnp.arange(length)[None] < len(ids)


def talk(model: Any, options: Options, kind: str) -> np.ndarray:
    """Walk one conversation; return `[turns, 3]`: first token, each further token, memory write, in seconds."""
    graphdef, params = nnx.split(model)
    rng = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    query, answer = options.query_tokens, options.reply_tokens
    width = query + answer
    memory = model.initial_memory(1, jax.random.key(0)) if kind == "memory" else None
    kept, history, times = None, np.zeros(0, np.int64), []
    for turn in range(options.turns):
        prompt = rng.integers(11, vocabulary, query)
        rules = make_rules(1, jax.random.key(turn), limit=answer)
        jax.block_until_ready(memory)
        clock = Clock()
        if kind == "memory":
            room = width
            generation = begin(graphdef, params, memory, *padded(prompt, query), rules, room)
        elif kind == "cached" and kept is not None:
            # The token that ended the last reply has not been read yet.
            new = np.concatenate([history[-1:], prompt])
            room = bucket(len(history) + width)
            generation = go_on(graphdef, params, kept, *padded(new, bucket(len(new))), rules, room)
        else:
            row = np.concatenate([history, prompt])
            room = bucket(len(row) + answer)
            generation = begin(graphdef, params, None, *padded(row, bucket(len(row))), rules, room)
        generation, first = reply(graphdef, params, generation.cache, generation._replace(cache=None), 1)
        to_first = clock.lap(first)
        generation, rest = reply(graphdef, params, generation.cache, generation._replace(cache=None), answer - 1)
        per_token = clock.lap(rest) / (answer - 1)
        made = np.concatenate([np.asarray(first.ids[0]), np.asarray(rest.ids[0])])
        clock = Clock()
        writing = 0.0
        if kind == "memory":
            memory = write(graphdef, params, memory, *padded(np.concatenate([prompt, made]), width))
            writing = clock.lap(memory)
        history = np.concatenate([history, prompt, made])
        kept = generation if kind == "cached" else None
        times.append((to_first, per_token, writing))
    return np.array(times)


def update_delay(options: Options) -> dict[str, float]:
    """Time from the last piece of text to the caller's next line, with the memory update and without, in seconds."""
    source = open_source(DialogueData())
    tokenizer = train_tokenizer((source.text(i) for i in range(300)), TokenizerConfig(vocab_size=512))
    model = build_model(presets.PRESETS[options.preset](tokenizer.vocab_size), 0)
    sizes = {"max_length": options.query_tokens + options.reply_tokens, "reply_tokens": 8}
    session = ChatSession(model, tokenizer, **sizes, stream_tokens=8)
    real, delays = chat_session._write, {}
    for name in ("with", "without", "with", "without"):
        chat_session._write = real if name == "with" else lambda graphdef, params, memory, *row: memory
        for _ in range(12):
            jax.block_until_ready(session.memory)
            began = None
            for _piece in session.send("My cat is called Tom."):
                began = time.perf_counter()
            passed = time.perf_counter() - (began or np.nan)
            delays.setdefault(name, []).append(passed)
    chat_session._write = real
    return {name: float(np.median(each)) for name, each in delays.items()}


def main(options: Options) -> None:
    """Measure, draw, write."""
    config = presets.PRESETS[options.preset]()
    total = options.turns * (options.query_tokens + options.reply_tokens)
    baseline_config = presets.baseline_like(config, max_length=bucket(total))
    model, baseline = build_model(config, 0), build_model(baseline_config, 0)
    kinds = {"memory": model, "cached": baseline, "uncached": baseline}
    times = {}
    for kind, each in kinds.items():
        talk(each, options, kind)
    for _ in range(options.passes):  # interleaved: a slow minute of the machine meets all of them
        for kind, each in kinds.items():
            found = talk(each, options, kind)
            times[kind] = np.minimum(times.get(kind, np.inf), found)
    parts = count_parameters(config)[0]
    sizes = {
        "memory": sum(size for name, size in parts.items() if name != "masked_language_head"),
        "baseline": sum(count_parameters(baseline_config)[0].values()),
    }
    report(options, times, sizes, baseline_config.num_layers, update_delay(options))


def report(
    options: Options, times: dict[str, np.ndarray], sizes: dict[str, int], layers: int, delay: dict[str, float]
) -> None:
    """Write table, figures and plot."""
    query, answer, turns = options.query_tokens, options.reply_tokens, np.arange(1, options.turns + 1)
    whole = {kind: each[:, 0] + each[:, 1] * (answer - 1) for kind, each in times.items()}
    tokens = {
        # The decoder reads prompt and reply, the encoder reads both again to write them.
        "memory": np.cumsum(np.full(options.turns, 2 * (query + answer))),
        "cached": np.cumsum(np.full(options.turns, query + answer)),
        "uncached": np.cumsum(turns * (query + answer)),
    }
    later = times["memory"][1:]
    flat = {
        name: later[:, i].max() / np.median(later[:, i]) - 1 for i, name in enumerate(("first token", "further token"))
    }
    drift = {
        name: np.median(later[-8:, i]) / np.median(later[:8, i]) - 1
        for i, name in enumerate(("first token", "further token"))
    }

    def crossover(of: np.ndarray) -> str:
        slower = of > whole["memory"]
        always = [turn for turn in turns if slower[turn - 1 :].all()]
        return f"turn {always[0]}" if always else "none within these turns"

    device = options.device_name or f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    lines = [
        "# Latency over a conversation",
        "",
        "    python benchmarks/latency.py",
        "",
        f"{device}. Preset `{options.preset}` ({sizes['memory']:,} parameters without the masked-language head) against its",
        f"stateless baseline of {layers} layers ({sizes['baseline']:,}); {query} tokens per query, {answer} per reply, batch 1, random",
        f"parameters, fastest of {options.passes} passes. Lengths of the baseline are rounded up to powers of two.",
        "",
        "| turn | "
        + " | ".join(
            f"{name}: {what}"
            for name in ("memory", "baseline, cache kept", "baseline, history read again")
            for what in ("first token ms", "per token ms")
        )
        + " |",
        "|---" * 7 + "|",
    ]
    shown = [turn for turn in (1, 2, 4, 8, 16, 24, 32) if turn <= options.turns]
    for turn in shown:
        row = [f"{1000 * value:.1f}" for kind in times for value in times[kind][turn - 1, :2]]
        lines.append(f"| {turn} | " + " | ".join(row) + " |")
    lines += [
        "",
        f"- With memory, turns 2 to {options.turns}: the slowest is above the median by {100 * flat['first token']:.0f} % to the first token and by",
        f"  {100 * flat['further token']:.0f} % per further token; the last eight turns against the first eight: {100 * drift['first token']:+.1f} % and {100 * drift['further token']:+.1f} %.",
        f"- Writing the memory after a reply takes {1000 * np.median(times['memory'][:, 2]):.1f} ms. It is dispatched behind the last",
        f"  token: from the last piece of text to the caller's next line {1000 * delay['with']:.2f} ms pass with it,",
        f"  {1000 * delay['without']:.2f} ms without (a CPU runs part of it in the caller's thread).",
        f"- A whole turn is faster than the baseline that reads its history again from {crossover(whole['uncached'])} on, than the",
        f"  baseline that keeps its cache from {crossover(whole['cached'])} on.",
        f"- Tokens read in {options.turns} turns: {tokens['memory'][-1]:,} with memory (decoder and encoder), {tokens['cached'][-1]:,} with a kept cache, whose attention",
        f"  still grows with the history, {tokens['uncached'][-1]:,} where the history is read again: N against N².",
        "",
        "![latency](latency.png)",
    ]
    (HERE / "latency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = {"options": vars(options), "seconds": {kind: each.tolist() for kind, each in times.items()}}
    (HERE / "latency.json").write_text(json.dumps(facts), encoding="utf-8")
    print("\n".join(lines))

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {"memory": "memory (RxT)", "cached": "baseline, cache kept", "uncached": "baseline, history read again"}
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for kind, name in names.items():
        axes[0].plot(turns, 1000 * times[kind][:, 0], label=name)
        axes[1].plot(turns, 1000 * times[kind][:, 1], label=name)
        axes[2].plot(turns, tokens[kind], label=name)
    for axis, title, unit in zip(
        axes,
        ("time to first token", "time per further token", "tokens read so far"),
        ("ms", "ms", "tokens"),
        strict=True,
    ):
        axis.set(title=title, xlabel="turn", ylabel=unit, ylim=(0, None))
    axes[0].set(yscale="log", ylim=(5, None))
    axes[0].legend(frameon=False)
    figure.savefig(HERE / "latency.png", dpi=130)


if __name__ == "__main__":
    main(tyro.cli(Options))
