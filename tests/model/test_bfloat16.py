"""What stays float32 when the compute type is bfloat16: logits, slopes of experts, routers, and the memory carry."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import random_conversations, small_config, small_model

from rxt_jax.model import BaselineConfig
from rxt_jax.nn.linear import Linear
from rxt_jax.nn.mixture_of_experts import MixtureConfig, MixtureOfExperts
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.ops.routing import grouped_product, sort_by_expert
from rxt_jax.stages import MemoryAware
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

UPDATES = 50
TOLERANCE = 0.03  # of the first loss, at every update


def rounded(x):
    """The value that bfloat16 has for x."""
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


@lru_cache(maxsize=1)
def bfloat16_model():
    """A model whose memory no write changes."""
    config = small_config(dtype="bfloat16")
    closed = ResidualGateConfig(kind="static", activation="sigmoid", initial=-30.0)
    layer = replace(config.memory_attention.layer, gate=closed)
    return small_model(replace(config, memory_attention=replace(config.memory_attention, layer=layer)))


def test_a_wide_product_of_bfloat16_is_not_rounded():
    linear = Linear({"embed": 64}, {"vocab": 40}, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (9, 64), jnp.bfloat16)
    exact = rounded(x) @ rounded(linear.kernel[...]) + linear.bias[...]
    found = linear(x, wide=True)
    assert found.dtype == jnp.float32 and linear(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(found, exact, atol=1e-5)
    assert np.abs(rounded(exact) - exact).max() > 1e-3  # what is lost otherwise


@pytest.mark.parametrize("kind", ["head", "masked_language_head", pytest.param("tied", marks=pytest.mark.slow)])
def test_logits_come_out_unrounded(kind):
    if kind == "tied":
        decoder = small_config().decoder
        config = BaselineConfig(
            vocab_size=48,
            embed_dim=16,
            num_layers=1,
            max_length=12,
            attention=decoder.attention,
            feed_forward=decoder.feed_forward,
            tie_embeddings=True,
            dtype="bfloat16",
        )
        apply = small_model(config).logits
    else:
        model = bfloat16_model()
        apply = model.logits if kind == "head" else model.masked_language_logits
    logits = apply(jax.random.normal(jax.random.key(0), (2, 3, 16), jnp.bfloat16))
    assert logits.dtype == jnp.float32
    assert np.mean(rounded(logits) == logits) < 0.1


def test_slopes_of_an_expert_add_up_in_float32():
    """In bfloat16 a sum of ones ends at 256."""
    tokens = 2000
    places = sort_by_expert(jnp.zeros((tokens, 1), jnp.int32), 2)
    ones = jnp.ones((len(places.token), 3), jnp.bfloat16)

    def total(kernels):
        product = grouped_product(ones, kernels, places)
        return jnp.sum(product[places.place[:, 0]].astype(jnp.float32))

    slope = jax.grad(total)(jnp.ones((2, 3, 5)))
    np.testing.assert_array_equal(slope[0], np.full((3, 5), tokens))
    np.testing.assert_array_equal(slope[1], np.zeros((3, 5)))


def mixture(**options):
    config = MixtureConfig(num_experts=4, experts_per_token=2, mlp_dim=6, bias="local", num_shared_experts=2, **options)
    return MixtureOfExperts(5, config, rngs=nnx.Rngs(0))


def test_slopes_of_a_mixture_are_those_of_float32():
    graphdef, params = nnx.split(mixture())
    x = jax.random.normal(jax.random.key(1), (1, 1500, 5)) + 1.0

    @jax.jit
    def slopes(params, x):
        return jax.grad(lambda params: jnp.sum(nnx.merge(graphdef, params)(x)[0].astype(jnp.float32)))(params)

    found, exact = (
        {path: slope[...] for path, slope in nnx.to_flat_state(slopes(params, x.astype(jnp.bfloat16).astype(dtype)))}
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    for path in (path for path in exact if path[0] == "experts"):
        largest = float(jnp.abs(exact[path]).max())
        np.testing.assert_allclose(found[path], exact[path], atol=0.03 * largest, err_msg=str(path))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_routers_do_not_depend_on_the_default_precision(dtype):
    module = mixture()
    with jax.default_matmul_precision("bfloat16"):
        text = jax.jit(lambda x: module(x)[0]).lower(jnp.ones((1, 7, 5), dtype)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    routed = [line for line in products if "-> tensor<7x4xf32>" in line]
    shared = [line for line in products if "tensor<5x2xf32>) -> tensor<7x2xf32>" in line]
    assert len(routed) == len(shared) == 1
    assert all("HIGHEST" in line for line in routed + shared)
    assert any("HIGHEST" not in line for line in products)


def test_a_closed_gate_leaves_the_memory_of_fifty_writes_as_it_was():
    model = bfloat16_model()
    batch = random_conversations(interactions=1, rows=2)
    ids, mask = jnp.asarray(batch.ids[0]), jnp.asarray(batch.token_mask[0])
    before = model.initial_memory(2)

    @jax.jit
    def write_often(memory):
        encoded = model.encode(ids, mask)
        return jax.lax.fori_loop(0, 50, lambda _, memory: model.update_memory(memory, encoded, mask), memory)

    after = write_often(before)
    assert after.dtype == jnp.float32
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.slow
def test_training_follows_the_float32_run():
    """Routed and shared experts, memory, head: all that a run in bfloat16 rounds."""
    stage, plain = MemoryAware(), small_config()
    experts = MixtureConfig(num_experts=4, experts_per_token=2, mlp_dim=12, num_shared_experts=2)
    plain = replace(plain, decoder=replace(plain.decoder, feed_forward=experts))
    batch = random_conversations(interactions=3, rows=4)
    schedule = ScheduleConfig(kind="constant", warmup_share=0.0)
    config = OptimizerConfig(learning_rate=5e-3, schedule=schedule)

    def losses(dtype):
        graphdef, params = nnx.split(small_model(replace(plain, dtype=dtype)))
        optimizer = make_optimizer(config, params, total_updates=UPDATES, trainable=stage.trainable)
        step = make_train_step(graphdef, stage, optimizer, seed=0)
        state, found = make_train_state(params, optimizer), []
        for _ in range(UPDATES):
            state, metrics = step(state, batch)
            found.append(metrics["loss"][0])
        return np.asarray(found)

    exact, found = losses("float32"), losses("bfloat16")
    assert exact[-1] < 0.5 * exact[0]  # it does learn
    np.testing.assert_allclose(found, exact, atol=TOLERANCE * exact[0])
