"""The papers' tables, measured on this implementation: python benchmarks/paper_tables.py [PART …]

    python benchmarks/paper_tables.py quality --run runs/toy --baseline runs/toy_baseline
    python benchmarks/paper_tables.py attention-time attention-loss bleu reward
    python benchmarks/paper_tables.py                      # write the page from what has been measured

Every part measures in one run what it compares, keeps it in paper_tables.json with date and machine, and writes the page
paper_tables.md anew. Ratios are compared with ratios: machines, data and sizes are others than the papers'. `latency` is
taken from latency.json, which `python benchmarks/latency.py` writes.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bleu_speed
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from paper_tables_page import page

import rxt_jax
from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import EvaluationConfig, evaluate_baseline, evaluate_split
from rxt_jax.evaluation.mrq import MrqConfig, evaluate_mrq
from rxt_jax.losses.token_log_probs import next_token_log_probs
from rxt_jax.model import BaselineConfig
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.recipe import StageRun
from rxt_jax.rewards import embedding_table, make_reward_context
from rxt_jax.run import make_batches
from rxt_jax.stages import ConversationSft
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

HERE = Path(__file__).parent
FIGURES, PAGE = HERE / "paper_tables.json", HERE / "paper_tables.md"

VARIANTS = {"MHA": (8, 8), "GQA": (8, 2), "MQA": (8, 1), "SQA": (4, 2), "sSQA": (4, 4), "xSQA": (2, 2)}
"""Query and key/value heads, of 8 that the width would hold: those of the published models of width 128."""
TOKENS_OF_AN_INTERACTION = 32
"""At least so many; what does not fit is cut."""


def model_of(variant: str, layers: int, vocabulary: int, length: int) -> BaselineConfig:
    queries, keys = VARIANTS[variant]
    return BaselineConfig(
        vocab_size=vocabulary,
        embed_dim=128,
        num_layers=layers,
        max_length=length,
        attention=AttentionConfig(num_query_heads=queries, num_kv_heads=keys, head_dim=16),
        feed_forward=FeedForwardConfig(mlp_dim=256, gated=True),
        embedding_std=0.02,
    )


def fastest(calls: dict[str, Callable[[], Any]], passes: int) -> dict[str, dict[str, float]]:
    """Time calls in turn, so that other work on the machine meets all of them: the least of each, wall and processor."""
    found = {name: {"wall": float("inf"), "processor": float("inf")} for name in calls}
    for _ in range(passes):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            spent = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
            found[name] = {kind: min(found[name][kind], value) for kind, value in spent.items()}
    return found


def attention_time(options: argparse.Namespace) -> dict[str, Any]:
    """Time forward and backward pass of one row, by variant and length; lengths that were measured before stay."""
    found: dict[str, Any] = dict(options.known.get("by_length", {}))
    for length in options.lengths:
        calls = {}
        for variant in VARIANTS:
            graphdef, params = nnx.split(build_model(model_of(variant, 2, 512, length), 0))
            ids = jnp.asarray(np.random.default_rng(0).integers(11, 512, (1, length)), jnp.int32)

            @jax.jit
            def gradient(params: Any, ids: Any, graphdef: Any = graphdef) -> Any:
                def loss(params: Any) -> Any:
                    mask = jnp.ones(ids.shape, bool)
                    model = nnx.merge(graphdef, params)
                    hidden, _ = model.decode_hidden(ids, mask)
                    return -jnp.sum(next_token_log_probs(model.logits, hidden, ids, mask).log_probs)

                return jax.grad(loss)(params)

            def call(gradient: Any = gradient, params: Any = params, ids: Any = ids) -> Any:
                return gradient(params, ids)

            jax.block_until_ready(call())
            calls[variant] = call
        found[str(length)] = fastest(calls, options.passes)
        print(length, json.dumps(found[str(length)]), flush=True)
    return {"layers": 2, "embed_dim": 128, "passes": options.passes, "by_length": found}


def attention_loss(options: argparse.Namespace) -> dict[str, Any]:
    """Train variants on the same conversations for as many updates, and score held-out ones; other lengths stay.

    Variants that were trained before as long, on as many rows of this length, stay too.
    """
    by_length: dict[str, Any] = dict(options.known.get("by_length", {}))
    length = options.train_length
    sizes = {"updates": options.updates, "rows": options.rows, "layers": 4, "embed_dim": 128}
    known = by_length.get(str(length), {})
    is_same = all(known.get(name) == value for name, value in sizes.items())
    found: dict[str, Any] = dict(known["by_variant"]) if is_same else {}
    run = rxt_jax.load("companion")
    # As many interactions as fill the length: the conversations that the companion learns from are shorter.
    turns = -(-length // TOKENS_OF_AN_INTERACTION)
    spec = replace(run.recipe.data.source.spec, interactions=(turns, turns), facts=(turns // 5, turns // 3))
    data = DataConfig(conversation_length=length, max_length=run.recipe.data.max_length, max_interactions=turns)
    encoder = RowEncoder(run.tokenizer, data)
    schedule = ScheduleConfig(kind="cosine", warmup_share=0.1)
    stage_run = StageRun(
        stage=ConversationSft(),
        updates=options.updates,
        batch_size=options.rows,
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule=schedule),
    )
    training = make_batches(stage_run, open_source(DialogueData(spec=spec)), encoder, 0)
    source = open_source(DialogueData(spec=spec, split="iid", seed=1))
    held_out = [make_batches(stage_run, source, encoder, 0, held_out=True)[n] for n in range(8)]
    sizes["tokens"] = float(np.mean([np.sum(batch.token_mask) / options.rows for batch in held_out]))
    for variant in options.variants:
        config = model_of(variant, 4, run.tokenizer.vocab_size, length)
        graphdef, params = nnx.split(build_model(config, 0))
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        optimizer = make_optimizer(
            stage_run.optimizer, params, total_updates=options.updates, trainable=stage_run.stage.trainable
        )
        state = make_train_state(params, optimizer)
        step = make_train_step(graphdef, stage_run.stage, optimizer, seed=0)
        wall, processor = time.perf_counter(), time.process_time()
        for update in range(options.updates):
            state, _ = step(state, training[update])
            if update == 0:  # what it compiled is not counted
                jax.block_until_ready(state.params)
                wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(state.params)
        spent = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}

        @jax.jit
        def score(params: Any, batch: Any, graphdef: Any = graphdef) -> Any:
            counts = stage_run.stage.label_counts(batch)
            return stage_run.stage.objective(nnx.merge(graphdef, params), batch, None, counts)[1]

        sums = [jax.device_get(score(state.params, jax.tree.map(jnp.asarray, batch))) for batch in held_out]
        means = {
            name: float(sum(each[name][0] for each in sums) / sum(each[name][1] for each in sums))
            for name in ("answer/loss", "answer/accuracy")
        }
        found[variant] = {
            "loss": means["answer/loss"],
            "accuracy": means["answer/accuracy"],
            "parameters": size,
        } | spent
        print(variant, json.dumps(found[variant]), flush=True)
    by_length[str(length)] = sizes | {"by_variant": {name: found[name] for name in VARIANTS if name in found}}
    return {"by_length": by_length}


def bleu(options: argparse.Namespace) -> dict[str, Any]:
    """Time BLEU on the device against NLTK's loop."""
    found = []
    for length in (256, 1024):
        for batch in (32, 64, 128):
            rng = np.random.default_rng(0)
            references = rng.integers(1, 8192, (batch, length)).astype(np.int32)
            noise = rng.integers(1, 8192, (batch, length)).astype(np.int32)
            candidates = np.where(rng.random((batch, length)) < 0.5, noise, references)
            lists, arrays = (candidates.tolist(), references.tolist()), (candidates, references[:, None])
            np.testing.assert_allclose(
                bleu_speed.on_device(*arrays), bleu_speed.in_a_loop(*lists), rtol=1e-4, atol=1e-6
            )
            calls = {
                "nltk": lambda lists=lists: bleu_speed.in_a_loop(*lists),
                "device": lambda arrays=arrays: bleu_speed.on_device(*arrays),
            }
            found.append({"tokens": length, "batch": batch, **fastest(calls, options.passes)})
            print(json.dumps(found[-1]), flush=True)
    return {"rows": found}


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """Measure answers of a run and of its baseline on the same held-out conversations."""
    if not options.run or not options.baseline:
        raise SystemExit("quality compares two runs: name them with --run and --baseline")
    config = EvaluationConfig(episodes=options.episodes, batch_size=min(options.episodes, 32), splits=("iid",))
    found = {}
    for name, folder, measure in (
        ("memory", options.run, evaluate_split),
        ("baseline", options.baseline, evaluate_baseline),
    ):
        run = rxt_jax.load(folder)
        source = open_source(replace(run.recipe.data.evaluation_source, split="iid", seed=config.seed))
        result = measure(run.model, run.tokenizer, source, run.recipe.data, config)
        size = sum(leaf.size for leaf in jax.tree.leaves(nnx.split(run.model)[1]))
        conditions = {key: each.summary() for key, each in result.conditions.items()}
        found[name] = {"run": Path(folder).name, "parameters": size, "conditions": conditions}
    return {"episodes": options.episodes, **found}


def reward(options: argparse.Namespace) -> dict[str, Any]:
    """Score the answers of a model over nine interactions, from memory and from memory zeroed, and of a baseline."""
    run = rxt_jax.load(options.run or "companion")
    config = MrqConfig(
        episodes=options.episodes,
        batch_size=min(options.episodes, 32),
        conditions=("memory", "zeroed"),
        time_turns=False,
    )
    context = make_reward_context(run.tokenizer, embedding_table(run.model))
    found = {}
    for name, folder in (("memory", options.run or "companion"), ("baseline", options.baseline)):
        if folder is None:
            continue
        each = rxt_jax.load(folder)
        source = open_source(replace(run.recipe.data.evaluation_source, split="iid", seed=1))
        data = replace(each.recipe.data, max_interactions=config.max_interactions)
        found[name] = evaluate_mrq(each.model, each.tokenizer, source, data, config, context).summary()
    return {"run": options.run or "companion", **found}


PARTS = {
    "quality": quality,
    "attention-time": attention_time,
    "attention-loss": attention_loss,
    "bleu": bleu,
    "reward": reward,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--run", help="run with memory (quality, reward)")
    parser.add_argument("--baseline", help="run of its stateless baseline (quality, reward)")
    parser.add_argument("--episodes", type=int, default=64, help="held-out conversations (quality, reward)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096], help="of attention-time")
    parser.add_argument("--passes", type=int, default=3, help="of every timing; the least counts")
    parser.add_argument("--updates", type=int, default=300, help="of attention-loss")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of attention-loss")
    parser.add_argument("--rows", type=int, default=4, help="conversations of an update (attention-loss)")
    parser.add_argument("--train-length", type=int, default=1024, help="tokens of a conversation (attention-loss)")
    parser.add_argument("--output", type=Path, default=FIGURES, help="the figures; the page stands beside them")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    figures = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    for part in options.parts:
        options.known, began = figures.get(part, {}), time.perf_counter()
        measured = PARTS[part](options)
        figures[part] = measured | {
            "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores {platform.machine()}, {jax.devices()[0].device_kind}, "
            f"JAX {jax.__version__}, load {os.getloadavg()[0]:.0f}",
            "seconds": round(time.perf_counter() - began),
        }
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    latency = json.loads((HERE / "latency.json").read_text(encoding="utf-8"))
    options.output.with_suffix(".md").write_text(page(figures, latency), encoding="utf-8")


if __name__ == "__main__":
    main()
