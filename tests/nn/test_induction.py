"""A decoder whose first layer begins as an induction head: what it attends to before it has learnt anything."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import convolving, mixture_config, small_config

from rxt_jax.model import presets
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.layers import LayerConfig, TokenContext, TransformerLayer
from rxt_jax.nn.short_convolution import neighbours
from rxt_jax.ops.attention import AttentionMask

WIDTH, WORDS, AGAIN = 96, 12, 6
HEADS = AttentionConfig(num_query_heads=3, num_kv_heads=3, head_dim=32, output_bias=False)
WORD = jax.random.normal(jax.random.key(0), (4, WORDS, WIDTH))
ROW = jnp.concatenate([WORD, WORD[:, :AGAIN]], axis=1)
POSITIONS = jnp.arange(ROW.shape[1])[None]


def layer(induction: bool) -> TransformerLayer:
    config = LayerConfig(attention=HEADS, feed_forward=FeedForwardConfig(mlp_dim=8), induction=induction)
    return TransformerLayer(WIDTH, config, rngs=nnx.Rngs(0))


def test_a_word_said_again_attends_to_what_followed_it():
    """Words 0 to 11, then 0 to 5 again: word 12 + i looks at word i + 1."""
    share = {}
    for induction in (True, False):
        fresh = layer(induction)
        normed = fresh.attention_norm(ROW)
        before = neighbours(normed, 1, POSITIONS) if induction else None
        keys, _ = fresh.attention.project(normed, POSITIONS, keys_of=before)
        weights = fresh.attention.weights(normed, keys, AttentionMask(causal=True), POSITIONS)
        share[induction] = np.array([jnp.mean(weights[:, :, WORDS + i, i + 1]) for i in range(AGAIN)])
    assert share[True].min() > 0.5
    assert share[False].max() < 0.1


def test_what_it_adds_is_half_of_what_followed():
    fresh, mask = layer(True), jnp.ones(ROW.shape[:2], bool)
    context = TokenContext(POSITIONS, mask, AttentionMask(causal=True))
    added = fresh._attend_to_tokens(ROW, context, None, None)[0] - ROW
    followed = fresh.attention_norm(WORD[:, 1 : AGAIN + 1])
    share = jnp.sum(added[:, WORDS:] * followed, axis=-1) / jnp.sum(followed**2, axis=-1)
    np.testing.assert_allclose(jnp.mean(share), 0.5 * 0.65, atol=0.1)


def test_the_first_layer_of_the_decoder_has_it_and_no_other():
    for config in (convolving(small_config()), convolving(mixture_config())):
        decoder = (
            *config.stateless_layers(final=False),
            *config.decoder_layers(),
            *config.stateless_layers(final=True),
        )
        assert [each.induction for each in decoder] == [True] + [False] * (len(decoder) - 1)
        assert not any(each.induction for each in config.encoder_layers())
        baseline = presets.baseline_like(config, max_length=32)
        assert [each.induction for each in baseline.stateless_layers(final=False)][:2] == [True, False]


def test_heads_that_cannot_give_a_state_back_are_refused():
    config = LayerConfig(
        attention=replace(HEADS, num_kv_heads=1), feed_forward=FeedForwardConfig(mlp_dim=8), induction=True
    )
    with pytest.raises(ValueError, match="induction needs as many key/value heads as query heads"):
        TransformerLayer(WIDTH, config, rngs=nnx.Rngs(0))
