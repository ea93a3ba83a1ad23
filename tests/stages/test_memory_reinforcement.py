"""Memory reinforcement as a stage: what it scores is what it drew, and it trains, replays and resumes like others."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from planted import TOKENIZER, SavedShare, conversations
from small import small_config, small_model

from rxt_jax.model import CriticConfig, SamplingConfig
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.memory_reinforcement import MemoryResets
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.acting import make_acting
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step, rebuilder

ROWS = 4


@lru_cache(maxsize=4)
def split(config):
    return nnx.split(small_model(config))


def make(stage, config=None, seed=0, **options):
    graphdef, params = split(config or small_config(critic=CriticConfig()))
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-2, **options),
        params,
        total_updates=100,
        trainable=stage.trainable,
        unfreeze=stage.unfreeze,
    )
    batch = conversations(rows=ROWS)
    state = make_train_state(params, optimizer, stage, graphdef=graphdef, tokenizer=TOKENIZER, batch=batch)
    step = make_train_step(graphdef, stage, optimizer, seed=seed)
    return state, make_acting(graphdef, stage, TOKENIZER, seed=seed), step, graphdef


def mean(metrics, name):
    value, count = metrics[name]
    return float(value) / max(float(count), 1e-9)


IMPO = MemoryReinforcement(reward=SavedShare())
SAMPLED = RolloutConfig(sampling=SamplingConfig(temperature=0.7, top_k=8), soft_warmup=True)
STAGES = {
    "impo": IMPO,
    "resets, warm-up, filters": replace(IMPO, rollout=SAMPLED, resets=MemoryResets(ratio=0.4)),
    "collected": replace(IMPO, log_probs_source="collect"),
    "a window per interaction": replace(IMPO, memory_gradient_steps=1, interactions_per_update=1),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("initial", ["learned", "standard"])
def test_with_unchanged_parameters_the_ratio_is_one_and_no_divergence(name, initial):
    stage = STAGES[name]
    config = small_config(critic=CriticConfig(), initial_memory=initial)
    state, act, _, graphdef = make(stage, config)
    for update in range(2):
        made = act(state, conversations(update), update)
        state = replace(state, carry=stage.next_carry(state.carry, made, {}, jnp.int32(update + 1)))
        _, metrics = jax.jit(
            lambda params, made: stage.objective(rebuilder(graphdef, params)({}), made, None, stage.label_counts(made))
        )(state.params, made)
    assert float(metrics["policy/ratio"][1]) > 10
    np.testing.assert_allclose(mean(metrics, "policy/ratio"), 1.0, atol=1e-5)
    np.testing.assert_allclose(mean(metrics, "policy/approximate_kl"), 0.0, atol=1e-9)
    np.testing.assert_allclose(mean(metrics, "policy/reference_kl"), 0.0, atol=1e-9)
    assert mean(metrics, "policy/clip_fraction") == 0.0
    if name == "resets, warm-up, filters":
        assert not np.allclose(made.behaviour_log_probs, made.old_log_probs)
        assert not bool(jnp.any(made.is_fresh))
