"""A memory layer that copies from its first update on: what its slots read, and how much of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.memory_layer import EncodedLayer, MemoryLayer, MemoryLayerConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig

ROWS, SLOTS, TOKENS, WIDTH = 3, 12, 20, 32
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


@pytest.mark.parametrize("changed", [{"num_kv_heads": 2}, {"head_dim": 16}])
def test_heads_that_cannot_give_a_state_back_are_refused(changed):
    attention = AttentionConfig(**({"num_query_heads": 4, "num_kv_heads": 4, "head_dim": 8} | changed))
    config = MemoryLayerConfig(start="copy", **(COMMON | {"attention": attention}))
    with pytest.raises(ValueError, match=r"start='copy' needs .*embed_dim = 32; got 4 and "):
        MemoryLayer(SLOTS, WIDTH, config, rngs=nnx.Rngs(0))
