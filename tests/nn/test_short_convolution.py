"""Short convolutions: which neighbours a token sees, whole rows and token by token."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small import convolving, small_config, small_model

from rxt_jax.model import presets
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.nn.short_convolution import ShortConvolution, ShortConvolutionConfig
from rxt_jax.ops.attention import document_positions
from rxt_jax.train.groups import matrix_axes

WIDTH = 4


def convolution(before: int, after: int = 0) -> ShortConvolution:
    """Make one whose weights differ from neighbour to neighbour and from channel to channel."""
    module = ShortConvolution(WIDTH, ShortConvolutionConfig(before=before, after=after), rngs=nnx.Rngs(0))
    module.weights[...] = jax.random.normal(jax.random.key(1), module.weights.shape)
    return module


def tokens(rows: int, length: int) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (rows, length, WIDTH))


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, 3), after=st.integers(0, 3), length=st.integers(1, 6), real=st.integers(0, 6))
def test_a_row_is_convolved_channel_by_channel(before, after, length, real):
    if before + after == 0:
        return
    module, x, real = convolution(before, after), tokens(1, length), min(real, length)
    mask = jnp.arange(length)[None] < real
    actual = module(x, jnp.arange(length)[None], mask)
    for channel in range(WIDTH):
        weights = np.asarray(module.weights[:, channel])
        # numpy turns the kernel round: first what looks ahead farthest, last what looks back farthest.
        kernel = np.concatenate([weights[before:][::-1], [1.0], weights[:before]])
        expected = np.convolve(np.asarray(x[0, :real, channel]), kernel)[after : after + real] if real else []
        np.testing.assert_allclose(actual[0, :real, channel], expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(before=st.integers(1, 3), lengths=st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), max_size=4))
def test_pieces_of_a_row_are_convolved_as_the_whole(before, lengths):
    """Two rows, of which every step reads some right-padded tokens, or none."""
    module, x = convolution(before), tokens(2, 12)
    whole = module(x, jnp.arange(12)[None], jnp.ones((2, 12), bool))
    last, read = jnp.zeros((2, before, WIDTH)), np.zeros(2, int)
    for counts in lengths:
        columns = read[:, None] + np.arange(3)
        mask = np.arange(3) < np.array(counts)[:, None]
        piece = jnp.where(mask[..., None], np.asarray(x)[np.arange(2)[:, None], columns % 12], 99.0)
        y, last = module.step(piece, jnp.asarray(mask), last)
        np.testing.assert_allclose(
            y[mask], np.asarray(whole)[np.arange(2)[:, None], columns % 12][mask], rtol=1e-5, atol=1e-5
        )
        read += np.array(counts)


def test_documents_of_a_packed_row_are_no_neighbours():
    module, x = convolution(2, 1), tokens(1, 7)
    documents = jnp.array([[1, 1, 1, 2, 3, 3, 0]])
    packed = module(x, document_positions(documents), documents > 0)
    for start, end in ((0, 3), (3, 4), (4, 6)):
        own = x[:, start:end]
        alone = module(own, jnp.arange(end - start)[None], jnp.ones(own.shape[:2], bool))
        np.testing.assert_allclose(packed[:, start:end], alone, atol=1e-6)


def test_fresh_weights_tell_neighbours_and_channels_apart():
    config = ShortConvolutionConfig(before=2, after=2, weights_std=0.3)
    weights = ShortConvolution(400, config, rngs=nnx.Rngs(0)).weights[...]
    assert weights.shape == (4, 400)
    np.testing.assert_allclose(jnp.std(weights, axis=1), 0.3, atol=0.05)
    alike = np.corrcoef(weights)[np.triu_indices(4, 1)]
    assert np.abs(alike).max() < 0.2


def test_its_weights_are_left_to_adam():
    variables = flat_parameters(nnx.state(small_model(convolving(small_config())), nnx.Param))
    found = {path: variable for path, variable in variables.items() if "convolution" in path}
    assert len(found) == 6  # of attention and feed-forward, in the encoder and in two segments of the decoder
    assert all(matrix_axes(variable) is None for variable in found.values())


def test_the_baseline_has_those_of_the_decoder():
    config = convolving(small_config())
    baseline = presets.baseline_like(config, max_length=32)
    assert baseline.short_convolution == config.decoder.short_convolution == ShortConvolutionConfig(before=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShortConvolutionConfig(before=-1), "before must be at least 0, got -1"),
        (lambda: ShortConvolutionConfig(before=0), "needs neighbours"),
        (lambda: ShortConvolutionConfig(weights_std=-0.1), "weights_std must be at least 0, got -0.1"),
        (
            lambda: replace(small_config().decoder, short_convolution=ShortConvolutionConfig(after=1)),
            r"decoder\.short_convolution\.after must be 0.*got 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
