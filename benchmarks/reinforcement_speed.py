"""How fast conversations are led, against a decoder that keeps nothing, and where the time of an update goes.

python benchmarks/reinforcement_speed.py [--conversations 16] [--interactions 9] [--answer 24] [--repeats 3]

The model is that of configs/toy.py with fresh parameters, which seldom end an answer, so nearly all answers have all
their tokens; conversations are the embedded dialogues. Prints a table.
"""

import argparse
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.dialogues import small
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.losses import make_algorithm
from rxt_jax.model import presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.rewards import STANDARD, RewardInput, Tokens, make_reward_context, published_retention
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.stages.stage import Reading
from rxt_jax.train.acting import make_acting
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step


def seconds_of(function, repeats: int) -> float:
    """Time a call after one that compiles: the shortest of a few."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times)


def without_caches(graphdef, answer: int):
    """Lead a conversation by reading the whole row again for every token; memory is written as in a rollout."""

    @jax.jit
    def lead(params, batch, key):
        model = nnx.merge(graphdef, params)
        rows, width = batch.ids.shape[1:]
        begins = jnp.argmax(batch.loss_mask, axis=-1) + 1
        places = jnp.arange(width)

        def interaction(memory, inputs):
            ids, valid_mask, begin, number = inputs
            ids = jnp.where(places < begin[:, None], ids, 0)

            def token(ids, step):
                place = jnp.minimum(begin + step, width - 1)
                logits = model.decode(ids, places < place[:, None], memory)
                last = jnp.take_along_axis(logits, (place - 1)[:, None, None], axis=1)[:, 0]
                drawn = jax.random.categorical(jax.random.fold_in(jax.random.fold_in(key, number), step), last)
                return ids.at[jnp.arange(rows), place].set(drawn.astype(ids.dtype)), None

            ids, _ = jax.lax.scan(token, ids, jnp.arange(answer))
            mask = (places < begin[:, None] + answer) & valid_mask[:, None]
            return model.update_memory(memory, model.encode(ids, mask), mask), ids

        first = batch.token_mask[0]
        memory = model.initial_memory(rows)
        memory = model.update_memory(memory, model.encode(batch.ids[0], first), first)
        inputs = (batch.ids[1:], batch.valid[1:], begins[1:], jnp.arange(1, len(batch.ids)))
        return jax.lax.scan(interaction, memory, inputs)[1]

    return lead


def reward_alone(made, tokenizer, table):
    """Reward the answers of every interaction of a trajectory once more, and nothing else."""
    context, reward = make_reward_context(tokenizer, table), published_retention()

    @jax.jit
    def run(made):
        rows = made.ids.shape[1]

        def one(carry, number):
            ids, mask = made.ids[number], made.token_mask[number]
            before = Tokens(made.ids[number - 1], made.token_mask[number - 1])
            whole = Tokens(ids, mask)
            given = RewardInput(
                generated=whole,
                answer=whole,
                query=whole,
                saved=before,
                history=before,
                mode=jnp.full(rows, STANDARD),
                valid=made.answered[number],
            )
            found = reward(given, context, carry)
            return found.carry, found.total

        return jax.lax.scan(one, reward.first_carry(rows, context), jnp.arange(1, len(made.ids)))[1]

    return lambda: run(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=16)
    parser.add_argument("--interactions", type=int, default=9)
    parser.add_argument("--answer", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    spec = replace(small(), interactions=(options.interactions, options.interactions))
    source = open_source(DialogueData(spec=spec))
    tokenizer = train_tokenizer((source.text(i) for i in range(1000)), TokenizerConfig(vocab_size=1024))
    config = DataConfig(max_length=48, max_interactions=options.interactions, overlong="cut_input_first")
    model = replace(presets.toy(), vocab_size=tokenizer.vocab_size, max_length=48)
    policy, advantage = make_algorithm("reinforce")
    stage = MemoryReinforcement(
        reward=published_retention(),
        rollout=RolloutConfig(answer_length=options.answer),
        policy=policy,
        advantage=advantage,
        reference="none",
    )
    reading = Reading(source, RowEncoder(tokenizer, config), options.conversations, 0)
    batch = jax.tree.map(jnp.asarray, stage.batches(reading)[0])
    graphdef, params = nnx.split(build_model(model, 0))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4), params, total_updates=10, trainable=stage.trainable)
    state = make_train_state(params, optimizer, stage, graphdef=graphdef, tokenizer=tokenizer, batch=batch)
    act = make_acting(graphdef, stage, tokenizer, seed=0)
    step = make_train_step(graphdef, stage, optimizer, seed=0)
    made = act(state, batch, 0)
    table = params["embedding"]["table"][...]
    acting = seconds_of(lambda: act(state, batch, 0), options.repeats)
    plain = without_caches(graphdef, options.answer)
    uncached = seconds_of(lambda: plain(params, batch, jax.random.key(0)), options.repeats)
    rewarding = seconds_of(reward_alone(made, tokenizer, table), options.repeats)

    whole, updating = [], []
    for number in range(options.repeats + 1):
        began = time.perf_counter()
        made = jax.block_until_ready(act(state, batch, number))
        between = time.perf_counter()
        state, metrics = step(state, made)
        jax.block_until_ready(metrics)
        whole.append(time.perf_counter() - began)
        updating.append(time.perf_counter() - between)
    update, total = min(updating[1:]), min(whole[1:])
    answered = int(np.sum(made.answered))
    length = float(np.sum(made.action_mask) / answered)
    device = jax.devices()[0].device_kind
    print(f"{device}, {options.conversations} conversations, {answered} answers of {length:.1f} tokens on average")
    print("| | seconds | interactions per second |\n|---|---|---|")
    for name, value in (("rollout, scored and rewarded", acting), ("re-running the decoder for every token", uncached)):
        print(f"| {name} | {value:.2f} | {answered / value:.0f} |")
    rest = max(total - acting - update, 0.0)
    print("| share of an update | % |\n|---|---|")
    parts = (("rollout and scoring", acting - rewarding), ("reward", rewarding), ("update", update), ("rest", rest))
    for name, value in parts:
        print(f"| {name} | {100 * value / total:.1f} |")


if __name__ == "__main__":
    main()
