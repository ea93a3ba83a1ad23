"""A memory layer that copies from its first update on: what its slots read, and how much of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.memory_layer import EncodedLayer, MemoryLayer, MemoryLayerConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig

ROWS, SLOTS, TOKENS, WIDTH = 3, 12, 20, 32
WIDE = 96  # of the toy
WIDE_HEADS = AttentionConfig(num_query_heads=3, num_kv_heads=3, head_dim=32, output_bias=False)
HEADS = AttentionConfig(num_query_heads=4, num_kv_heads=4, head_dim=8, output_bias=False, input_bias=False)
COMMON = {"attention": HEADS, "rotary": None, "slot_identity": 0.5, "gate": ResidualGateConfig(kind="replace")}
DRAW = jax.random.split(jax.random.key(0))
STATES = jax.random.normal(DRAW[0], (ROWS, TOKENS, WIDTH))
MEMORY = jax.random.normal(DRAW[1], (ROWS, SLOTS, WIDTH))
ENCODED = EncodedLayer(STATES, jnp.arange(TOKENS)[None], None)


def layer(start: str) -> MemoryLayer:
    return MemoryLayer(SLOTS, WIDTH, MemoryLayerConfig(start=start, **COMMON), rngs=nnx.Rngs(1))


def test_what_all_heads_read_comes_back_whole_and_twice():
    """With one token to read there is nothing to choose: every slot gets its state."""
    copying, one = layer("copy"), STATES[:, :1]
    written = copying(MEMORY, EncodedLayer(one, jnp.zeros((1, 1), jnp.int32), None), None)
    np.testing.assert_allclose(written, jnp.broadcast_to(2.0 * copying.input_norm(one), written.shape), atol=2e-5)


def test_slots_differ_in_what_they_read():
    """How alike two slots of a conversation are after one write: nearly the same, unless they start copying."""
    alike = {}
    for start in ("random", "copy"):
        written = layer(start)(MEMORY, ENCODED, None)
        directions = written / jnp.linalg.norm(written, axis=-1, keepdims=True)
        alike[start] = float(jnp.mean(jnp.einsum("bsd,btd->bst", directions, directions)))
    assert alike["copy"] < 0.6 < 0.8 < alike["random"]


def test_layers_and_seeds_have_rotations_of_their_own():
    one, same, other = (
        MemoryLayer(SLOTS, WIDTH, MemoryLayerConfig(start="copy", **COMMON), rngs=nnx.Rngs(seed)) for seed in (1, 1, 2)
    )
    kernels = [np.asarray(each.attention.value.kernel[...]) for each in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.5


def in_order(**changed) -> MemoryLayerConfig:
    return MemoryLayerConfig(**(COMMON | {"start": "copy", "in_order": True, "slot_identity": 1.5} | changed))


@pytest.mark.parametrize("length", [7, SLOTS, TOKENS])
def test_in_order_a_slot_begins_with_the_tokens_of_its_place(length):
    """Slot k gets token k, and behind the last slot half of token k + S."""
    fresh = MemoryLayer(SLOTS, WIDE, in_order(attention=WIDE_HEADS), max_length=TOKENS, rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(3))
    states = jax.random.normal(keys[0], (ROWS, length, WIDE))
    memory = jax.random.normal(keys[1], (ROWS, SLOTS, WIDE))
    encoded = EncodedLayer(states, jnp.arange(length)[None], None)
    weights = fresh.watch(memory, encoded, None).weights
    places = jnp.arange(length)[None] % SLOTS == jnp.arange(SLOTS)[:, None]
    read = jnp.sum(jnp.where(places, weights, 0.0), axis=-1)[:, : min(length, SLOTS)]
    assert float(jnp.mean(read)) > 0.9
    if length == 7:
        written, tokens = fresh(memory, encoded, None)[:, :length], fresh.input_norm(states)
        share = jnp.sum(written * tokens, axis=-1) / jnp.sum(tokens * tokens, axis=-1)
        np.testing.assert_allclose(jnp.mean(share), 2.0, atol=0.2)


def test_in_order_longer_interactions_than_the_longest_are_refused():
    fresh = MemoryLayer(SLOTS, WIDTH, in_order(), max_length=TOKENS - 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"may have 19 tokens \(max_length\), got 20"):
        fresh(MEMORY, ENCODED, None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": "random"}, "in_order needs start='copy' and rotary=None.*got 'random'"),
        ({"rotary": RotaryConfig()}, "in_order needs start='copy' and rotary=None"),
        ({"slot_identity": 0.0}, "in_order needs slot_identity above 0"),
    ],
)
def test_in_order_needs_what_it_is_made_of(changed, message):
    with pytest.raises(ValueError, match=message):
        in_order(**changed)


@pytest.mark.parametrize("changed", [{"num_kv_heads": 2}, {"head_dim": 16}])
def test_heads_that_cannot_give_a_state_back_are_refused(changed):
    attention = AttentionConfig(**({"num_query_heads": 4, "num_kv_heads": 4, "head_dim": 8} | changed))
    config = MemoryLayerConfig(start="copy", **(COMMON | {"attention": attention}))
    with pytest.raises(ValueError, match=r"start='copy' needs .*embed_dim = 32; got 4 and "):
        MemoryLayer(SLOTS, WIDTH, config, rngs=nnx.Rngs(0))
