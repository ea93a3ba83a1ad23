"""Reinforcement on a task with a known optimum: say the token that was planted some interactions ago.

python benchmarks/reinforcement.py [--algorithms impo ppo grpo rloo] [--seeds 0 1 2] [--distance 2] [--updates 150]

A conversation plants one of 8 tokens, talks about something else, and is asked for the token: 1 for the right one, the
optimum, 0 for another; chance is 1 in 8. Stage 4 is stopped when it says about half of them; every algorithm goes on
from there with nothing but the reward. Writes benchmarks/reinforcement.md and .png.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.losses import AdvantageConfig, make_algorithm
from rxt_jax.model import CriticConfig, ReactiveTransformer, SamplingConfig, presets
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.rewards import Reward
from rxt_jax.stages import MemoryAware, MemoryReinforcement
from rxt_jax.stages.episode_strategy import EpisodeStrategy
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.acting import make_acting
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import EpisodeBatch

SPECIAL = SpecialTokens()
VALUES, FIRST = 8, 12  # planted tokens, and the id of the first of them
TALK, ASK = FIRST + VALUES, FIRST + VALUES + 4
VOCABULARY, LENGTH = ASK + 1, 8
TOKENIZER = SimpleNamespace(special=SPECIAL, vocab_size=VOCABULARY, token_bytes=[b"a"] * VOCABULARY)
FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class SaysPlanted(Reward):
    """1 where the first word of an answer is what was planted in interaction 0; small talk earns nothing."""

    name = "planted"

    def score(self, given, context, carry):
        return (given.generated.ids[:, 1] == given.saved.ids[:, 2]).astype(jnp.float32), {}, carry


def conversations(rng: np.random.Generator, rows: int, distance: int) -> EpisodeBatch:
    """Plant, talk `distance` − 1 times, ask. Rows are [BOS] [Q] word [A] word [EOS]."""
    value = rng.integers(FIRST, FIRST + VALUES, rows)
    turns = [(value, np.full(rows, TALK))]
    turns += [(rng.integers(TALK, TALK + 4, rows), np.full(rows, TALK)) for _ in range(distance - 1)]
    turns.append((np.full(rows, ASK), value))
    shape = (len(turns), rows, LENGTH)
    ids = np.full(shape, SPECIAL.pad, np.int32)
    for number, (query, answer) in enumerate(turns):
        ids[number, :, :6] = np.stack(
            [
                np.full(rows, SPECIAL.bos),
                np.full(rows, SPECIAL.query),
                query,
                np.full(rows, SPECIAL.answer),
                answer,
                np.full(rows, SPECIAL.eos),
            ],
            axis=1,
        )
    places = np.arange(LENGTH)
    token_mask = np.broadcast_to(places < 6, shape).copy()
    loss_mask = np.broadcast_to((places >= 3) & (places < 6), shape).copy()
    return EpisodeBatch(ids, token_mask, loss_mask, np.ones(shape[:2], bool))


def make_config():
    """A toy of width 32 with 4 slots and a critic that reads memory."""
    attention = AttentionConfig(num_query_heads=2, num_kv_heads=2, head_dim=16)
    plain = {"attention": attention, "feed_forward": FeedForwardConfig(mlp_dim=48), "short_convolution": None}
    config = presets.toy(VOCABULARY)
    gate = ResidualGateConfig(kind="elementwise", activation="sigmoid")
    layer = MemoryLayerConfig(attention=attention, gate=gate, slot_identity=0.5)
    return replace(
        config,
        embed_dim=32,
        num_layers=1,
        num_slots=4,
        max_length=LENGTH,
        encoder=replace(config.encoder, **plain),
        decoder=replace(config.decoder, cross_attention=attention, induction=False, **plain),
        memory_attention=replace(config.memory_attention, layer=layer),
        embedding_std=0.5,
        critic=CriticConfig(with_first=True, scale=1.0),
    )


STRATEGY = EpisodeStrategy(first="none", middle="none", last="long_range")
GROUP_SIZES = {"grpo": 8, "dr_grpo": 8, "gspo": 8, "cispo": 8, "rloo": 8}  # others draw one answer to a query


def make_stage(name: str) -> MemoryReinforcement:
    """An algorithm with its usual settings, two passes over two minibatches."""
    policy, advantage = make_algorithm(name)
    group_size = GROUP_SIZES.get(name, 1)
    rollout = RolloutConfig(
        strategy=STRATEGY, sampling=SamplingConfig(temperature=1.0), answer_length=3, group_size=group_size
    )
    return MemoryReinforcement(
        reward=SaysPlanted(), rollout=rollout, policy=policy, advantage=advantage, update_epochs=2, minibatches=2
    )


def optimizer_of(stage, params, rate: float):
    """The rate is constant, so the number of updates is of no importance."""
    schedule = ScheduleConfig(kind="constant", warmup_share=0.0)
    rates = {"critic": 3.0} if "critic" in stage.trainable else {}
    config = OptimizerConfig(learning_rate=rate, schedule=schedule, group_rates=rates, clip_groups=(("critic",),))
    return make_optimizer(config, params, total_updates=80, trainable=stage.trainable, unfreeze=stage.unfreeze)


def accuracy_of(graphdef, distance: int, rows: int = 512):
    """How often the greedy answer is right, on conversations that no training sees."""
    stage = MemoryReinforcement(
        reward=SaysPlanted(),
        rollout=RolloutConfig(strategy=STRATEGY, sampling=SamplingConfig(), answer_length=3),
        advantage=AdvantageConfig(kind="reward", discount=0.0),
        reference="none",
    )
    batch = conversations(np.random.default_rng(10**6), rows, distance)
    act = jax.jit(stage.make_act(graphdef, TOKENIZER, held_out=True))

    def measure(params) -> float:
        carry = {"table": jnp.zeros((VOCABULARY, 1))}
        made = act(params, carry, batch, 0, jax.random.key(0))
        return float(made.rewards[-1].mean())

    return measure


def pretrain(graphdef, params, measure, seed: int, distance: int, target: float = 0.5, most: int = 3000):
    """Stage 4 until about half of the answers are right."""
    stage = MemoryAware(remat="none")
    optimizer = optimizer_of(stage, params, 3e-3)
    state = make_train_state(params, optimizer)
    step = make_train_step(graphdef, stage, optimizer, seed=seed)
    rng = np.random.default_rng(seed)
    for update in range(most):
        state, _ = step(state, conversations(rng, 64, distance))
        # Every 5 updates: later it may have jumped past the target.
        if update % 5 == 4 and (found := measure(state.params)) >= target:
            return state.params, update + 1, found
    raise SystemExit(f"stage 4 did not reach {target:.0%} in {most} updates")


def reinforce(graphdef, params, stage, measure, seed: int, distance: int, updates: int, rate: float, rows: int = 64):
    """Go on with rewards; return the greedy share of right answers after every 10 updates."""
    optimizer = optimizer_of(stage, params, rate)
    rng = np.random.default_rng(1000 + seed)
    rows = rows // stage.rollout.group_size
    example = conversations(np.random.default_rng(0), rows, distance)
    state = make_train_state(params, optimizer, stage, graphdef=graphdef, tokenizer=TOKENIZER, batch=example)
    act = make_acting(graphdef, stage, TOKENIZER, seed=seed)
    step = make_train_step(graphdef, stage, optimizer, seed=seed)
    curve = [(0, measure(state.params))]
    for update in range(updates):
        state, _ = step(state, act(state, conversations(rng, rows, distance), update))
        if update % 10 == 9:
            curve.append((update + 1, measure(state.params)))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=["impo", "ppo", "grpo", "rloo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--distance", type=int, default=2, help="interactions between planting and asking")
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=FOLDER / "reinforcement.json")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.is_file() else []
    for seed in options.seeds:
        began = time.perf_counter()
        graphdef, params = nnx.split(ReactiveTransformer(make_config(), rngs=nnx.Rngs(seed)))
        measure = accuracy_of(graphdef, options.distance)
        params, updates, start = pretrain(graphdef, params, measure, seed, options.distance)
        print(
            f"seed {seed}: stage 4 right {start:.2f} after {updates} updates, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        done = {each["algorithm"] for each in found if each["seed"] == seed}
        for name in (name for name in options.algorithms if name not in done):
            began = time.perf_counter()
            curve = reinforce(
                graphdef, params, make_stage(name), measure, seed, options.distance, options.updates, options.rate
            )
            seconds = time.perf_counter() - began
            found.append({"algorithm": name, "seed": seed, "seconds": seconds, "curve": curve})
            print(
                f"seed {seed} {name}: {curve[0][1]:.2f} → {curve[-1][1]:.2f} in {seconds:.0f} s",
                [round(c, 2) for _, c in curve],
                flush=True,
            )
            options.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
