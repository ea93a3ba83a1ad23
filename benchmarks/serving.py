"""Serving: throughput and time to first token at 1 to 64 conversations, and against a stateless model.

    python benchmarks/serving.py                     # writes serving.md and serving.json
    python benchmarks/serving.py --presets toy --conversations 1 4 --turns 2
    python benchmarks/serving.py --parts flat        # one part alone; what is in serving.json of the others stays

Everything goes through the engine of `rxt serve`, from as many threads as there are conversations; HTTP is left out.
Parameters are random and every reply has the same number of tokens. The stateless baseline has as many parameters,
runs on the same engine in the same process, and reads its whole history at every turn.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.model import presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.server.engine import Engine
from rxt_jax.server.programs import Programs
from rxt_jax.server.turns import Aborted, Ended, Event, Made, Turn, Written

HERE = Path(__file__).parent
NEVER = 1 << 20  # an id that no model makes: nothing ends a reply


@dataclass(frozen=True)
class Options:
    """What to measure."""

    presets: tuple[str, ...] = ("toy", "rxt_alpha_micro")
    parts: tuple[Literal["table", "flat", "stateless"], ...] = ("table", "flat", "stateless")
    """Many conversations at once; one long conversation with memory; the same with the stateless baseline."""
    conversations: tuple[int, ...] = (1, 4, 16, 64)
    turns: int = 3
    """Of every conversation."""
    long_turns: int = 50
    """Of the one conversation that shows whether the cost of a turn is flat."""
    passes: int = 3
    """How often that one is held; the least time of every turn counts."""
    query_tokens: int = 12
    reply_tokens: int = 16
    slots: int = 8
    device_name: str | None = None
    """How the machine is called in the report."""
    output: str = str(HERE / "serving")


class Answered:
    """A turn that is waited for."""

    def __init__(self, engine: Engine, turn: Turn):
        self._over = threading.Event()
        self._last = Written if turn.keeps_memory else Ended
        self.ids: list[int] = []
        self.memory: Any = None
        self.begun, self._processor = time.perf_counter(), time.process_time()
        self.first = self.end = self.processor = 0.0
        engine.submit(turn, self._hear)
        self._over.wait()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Made):
            self.first = self.first or time.perf_counter()
            self.ids += event.ids
        if isinstance(event, Ended):
            self.end = time.perf_counter()
        if isinstance(event, Written):
            self.memory = event.memory
        if isinstance(event, Aborted):
            raise RuntimeError(event.message)
        if isinstance(event, self._last):
            self.processor = time.process_time() - self._processor  # writing memory included
            self._over.set()


def start(model: Any, max_length: int, slots: int) -> Engine:
    """Compile an engine and start it."""
    programs = Programs(model, SpecialTokens(eos=NEVER), max_length=max_length, slots=slots)
    engine = Engine(programs, queue_size=1024)
    engine.start()
    return engine


def remembering(engine: Engine, options: Options) -> Callable[[int, int], list[Answered]]:
    """Hold a conversation with a model with memory."""

    def hold(seed: int, turns: int) -> list[Answered]:
        memory, done = engine._programs.initial_memory, []
        for turn in range(turns):
            prompt = query(seed, turn, options)
            done.append(Answered(engine, Turn(memory=memory, prompt=prompt, limit=options.reply_tokens)))
            memory = done[-1].memory
        return done

    return hold


def stateless(engine: Engine, options: Options) -> Callable[[int, int], list[Answered]]:
    """Hold a conversation with a model that reads it again at every turn."""

    def hold(seed: int, turns: int) -> list[Answered]:
        history: tuple[int, ...] = ()
        done = []
        for turn in range(turns):
            history += query(seed, turn, options)
            made = Turn(
                memory=engine._programs.initial_memory, prompt=history, limit=options.reply_tokens, keeps_memory=False
            )
            done.append(Answered(engine, made))
            history += tuple(done[-1].ids)
        return done

    return hold


def query(seed: int, turn: int, options: Options) -> tuple[int, ...]:
    rng = np.random.default_rng((seed, turn))
    return tuple(int(each) for each in rng.integers(11, 500, options.query_tokens))


def together(hold: Callable[[int, int], list[Answered]], conversations: int, turns: int) -> dict[str, float]:
    """Hold conversations at the same time."""
    done: list[Answered] = []
    threads = [
        threading.Thread(target=lambda seed=seed: done.extend(hold(seed, turns))) for seed in range(conversations)
    ]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    first = sorted(each.first - each.begun for each in done)
    return {
        "tokens_per_second": sum(len(each.ids) for each in done) / seconds,
        "first_token_ms": 1e3 * first[len(first) // 2],
        "first_token_p95_ms": 1e3 * first[int(0.95 * (len(first) - 1))],
    }


def measure(preset: str, options: Options) -> dict[str, Any]:
    """Measure the parts of one preset."""
    config = presets.PRESETS[preset]()
    length = min(config.max_length, 64)
    model = build_model(replace(config, max_length=length), 0)
    found: dict[str, Any] = {"preset": preset, "memory_bytes": model.initial_memory(1).nbytes}
    if "table" in options.parts:
        found |= measure_table(config, model, length, options)
    if "flat" in options.parts:
        engine = start(model, length, options.slots)
        hold = remembering(engine, options)
        hold(0, 2)
        found |= least_times("turn", [hold(0, options.long_turns) for _ in range(options.passes)])
        engine.stop()
    if "stateless" in options.parts:
        engine = baseline_engine(config, options.long_turns, options)
        tenth = first_and_last(options)
        hold_one = stateless_turns(engine, options)
        hold_one([0])
        ends = [*range(tenth), *range(options.long_turns - tenth, options.long_turns)]
        found |= least_times("stateless_turn", [hold_one(ends) for _ in range(options.passes)])
        engine.stop()
    return found


def least_times(name: str, passes: list[list[Answered]]) -> dict[str, list[float]]:
    """Give the least time of every turn in milliseconds, by the clock and of the processor, all threads together."""
    turns = list(zip(*passes, strict=True))
    return {
        f"{name}_ms": [1e3 * min(each.end - each.begun for each in turn) for turn in turns],
        f"{name}_processor_ms": [1e3 * min(each.processor for each in turn) for turn in turns],
    }


def measure_table(config: Any, model: Any, length: int, options: Options) -> dict[str, Any]:
    """Measure many conversations at once."""
    found: dict[str, Any] = {"batched": {}, "one_at_a_time": {}}
    engine = start(model, length, options.slots)
    hold = remembering(engine, options)
    together(hold, options.slots, 1)
    for conversations in options.conversations:
        found["batched"][str(conversations)] = together(hold, conversations, options.turns)
    engine.stop()
    single = start(model, length, 1)
    hold = remembering(single, options)
    together(hold, 1, 1)
    for conversations in options.conversations:
        found["one_at_a_time"][str(conversations)] = together(hold, conversations, options.turns)
    single.stop()
    engine = baseline_engine(config, options.turns, options)
    hold = stateless(engine, options)
    together(hold, options.slots, 1)
    found["stateless"] = {str(n): together(hold, n, options.turns) for n in options.conversations}
    engine.stop()
    return found


def baseline_engine(config: Any, turns: int, options: Options) -> Engine:
    """Serve the stateless model with room for conversations of so many turns."""
    whole = turns * (options.query_tokens + options.reply_tokens)
    return start(build_model(presets.baseline_like(config, max_length=whole), 0), whole, options.slots)


def stateless_turns(engine: Engine, options: Options) -> Callable[[list[int]], list[Answered]]:
    """Hold single turns of a stateless conversation, each behind a history as long as it is by then."""

    def hold(turns: list[int]) -> list[Answered]:
        done = []
        for turn in turns:
            length = turn * (options.query_tokens + options.reply_tokens) + options.query_tokens
            prompt = tuple(int(each) for each in np.random.default_rng(turn).integers(11, 500, length))
            made = Turn(
                memory=engine._programs.initial_memory, prompt=prompt, limit=options.reply_tokens, keeps_memory=False
            )
            done.append(Answered(engine, made))
        return done

    return hold


def first_and_last(options: Options) -> int:
    """Count the turns at either end of a long conversation that are compared."""
    return max(1, min(10, options.long_turns // 2))


def report(results: list[dict[str, Any]], options: Options) -> str:
    """Write the tables."""
    device = options.device_name or jax.devices()[0].device_kind
    lines = [
        "# Serving",
        "",
        "    python benchmarks/serving.py",
        "",
        f"{device}, JAX {jax.__version__}. The engine of `rxt serve` with {options.slots} slots, against one slot, and against the stateless",
        f"baseline of as many parameters on the same engine; {options.query_tokens} tokens per query, {options.reply_tokens} per reply, "
        f"{options.turns} turns per conversation, random",
        "parameters. Time to first token is from the request, waiting for a slot included: median and 95th percentile. The stateless engine's",
        "caches are as wide as the conversations it serves: those of the table for the table, those of 50 turns for the last line.",
        "",
    ]
    history = (options.turns - 1) * (options.query_tokens + options.reply_tokens) + options.query_tokens
    lines += [
        f"In the table a history has {history} tokens at most, so what the stateless model reads again is little; what that comes to in a long",
        "conversation is below the table.",
        "",
    ]
    for found in results:
        lines += [
            f"## `{found['preset']}`: a conversation is {found['memory_bytes'] / 1024:,.0f} KiB",
            "",
            "| conversations | tokens/s | first token ms | 95 % | one at a time: tokens/s | first token ms | stateless: tokens/s | first token ms |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for n in found.get("batched", {}):
            ours, single, other = (found[name][n] for name in ("batched", "one_at_a_time", "stateless"))
            lines.append(
                f"| {int(n)} | {ours['tokens_per_second']:,.0f} | {ours['first_token_ms']:,.0f} | {ours['first_token_p95_ms']:,.0f} "
                f"| {single['tokens_per_second']:,.0f} | {single['first_token_ms']:,.0f} "
                f"| {other['tokens_per_second']:,.0f} | {other['first_token_ms']:,.0f} |"
            )
        tenth = first_and_last(options)
        lines += [
            "",
            f"One conversation of {options.long_turns} turns, median of the first and of the last {tenth}:",
            "",
        ]
        for name, key in (("with memory", "turn"), ("stateless", "stateless_turn")):
            for kind, unit in (("_ms", "by the clock"), ("_processor_ms", "of processor time")):
                if times := found.get(key + kind):
                    first, last = (float(np.median(part)) for part in (times[:tenth], times[-tenth:]))
                    change = f"{100 * (last / first - 1):+.0f} %"
                    lines.append(f"- {name}: {first:.1f} ms and {last:.1f} ms {unit} per turn ({change})")
        lines.append("")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Measure, print, write."""
    file = Path(f"{options.output}.json")
    known = {each["preset"]: each for each in json.loads(file.read_text())} if file.is_file() else {}
    whole = set(options.parts) == {"table", "flat", "stateless"}
    results = [({} if whole else known.get(preset, {})) | measure(preset, options) for preset in options.presets]
    results += [] if whole else [each for preset, each in known.items() if preset not in options.presets]
    text = report(results, options)
    print(text)
    Path(f"{options.output}.md").write_text(text, encoding="utf-8")
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
