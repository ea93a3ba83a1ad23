"""The hand-written derivative of attention against the one that JAX derives from the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rxt_jax.ops import attention
from rxt_jax.ops.attention import AttentionMask
from rxt_jax.ops.dropout import dropout

HEADS = [(2, 2), (4, 2), (3, 1), (2, 4)]
DROPOUT = {"dropout_rate": 0.4, "dropout_key": jax.random.key(5)}


def attend(query, key, value, mask=None, **options):
    """Attention of ours with a dense mask."""
    return attention.attend(query, key, value, AttentionMask(pairs=mask), **options)


def plain(query, key, value, mask=None, *, dropout_rate=0.0, dropout_key=None):
    """Softmax as the papers write it; weights of hidden keys are zero, also where every key is hidden."""
    queries, keys = query.shape[2], key.shape[2]
    query = jnp.tile(query, (1, 1, max(1, keys // queries), 1))
    key, value = (jnp.repeat(each, max(1, queries // keys), axis=2) for each in (key, value))
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, key).astype(jnp.float32) / np.sqrt(query.shape[-1])
    visible = True if mask is None else mask[:, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
    weights = dropout(jnp.where(visible, weights, 0.0), dropout_rate, dropout_key)
    return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(value.dtype), value)


def make(seed, batch, length, keys, heads, head_dim=8, dtype=jnp.float32):
    """Random queries, keys, values and a cotangent of the result."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, length, heads[0], head_dim), *2 * [(batch, keys, heads[1], head_dim)]]
    shapes.append((batch, length, max(heads), head_dim))
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def make_mask(kind, seed, batch, length, keys):
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "causal":
        return jnp.asarray(np.tril(np.ones((length, keys), bool))[None].repeat(batch, 0))
    return jnp.asarray(rng.random((batch, length if kind == "pairs" else 1, keys)) < 0.4)


def value_and_slopes(function, inputs, mask, **options):
    @jax.jit
    def run(*inputs):
        *inputs, cotangent = inputs
        value, pull = jax.vjp(lambda *arrays: function(*arrays, mask, **options), *inputs)
        return value, *pull(cotangent)

    return run(*inputs)


def assert_same(found, expected, tolerance):
    for name, one, other in zip(("value", "query", "key", "value slope"), found, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (one, other)), atol=tolerance, err_msg=name)


@settings(max_examples=10, deadline=None)  # every shape compiles anew
@given(
    st.integers(0, 10_000),
    st.integers(1, 2),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(HEADS),
    st.sampled_from(["none", "causal", "pairs", "keys"]),
    st.booleans(),
)
@example(0, 2, 5, 5, (4, 2), "causal", True)
@example(1, 2, 4, 6, (2, 4), "pairs", True)
def test_value_and_slopes_are_those_of_the_plain_formula(seed, batch, length, keys, heads, kind, drops):
    inputs = make(seed, batch, length, keys, heads)
    mask = make_mask(kind, seed, batch, length, keys)
    options = DROPOUT if drops and heads[0] >= heads[1] else {}
    found, expected = (value_and_slopes(function, inputs, mask, **options) for function in (attend, plain))
    assert_same(found, expected, 1e-5)


@pytest.mark.parametrize("heads", HEADS)
def test_bfloat16_differs_by_its_own_rounding(heads):
    inputs = make(3, 2, 9, 7, heads, head_dim=24, dtype=jnp.bfloat16)
    mask = make_mask("pairs", 3, 2, 9, 7)
    exact = value_and_slopes(plain, [each.astype(jnp.float32) for each in inputs], mask)
    found = value_and_slopes(attend, inputs, mask)
    assert_same(found, [each.astype(jnp.bfloat16) for each in exact], 0.1)
    worst = [np.abs(np.asarray(one, np.float32) - other).max() for one, other in zip(found, exact, strict=True)]
    derived = value_and_slopes(plain, inputs, mask)
    theirs = [np.abs(np.asarray(one, np.float32) - other).max() for one, other in zip(derived, exact, strict=True)]
    assert all(mine <= 2 * other for mine, other in zip(worst, theirs, strict=True))


def test_a_query_that_sees_nothing_contributes_to_no_slope():
    inputs = make(4, 1, 3, 4, (2, 2))
    mask = jnp.ones((1, 3, 4), bool).at[0, 1].set(False)
    value, query_slope, key_slope, value_slope = value_and_slopes(attend, inputs, mask)
    assert not value[0, 1].any() and not query_slope[0, 1].any()
    louder = [*inputs[:3], inputs[3].at[0, 1].mul(100.0)]
    for quiet, loud in zip((key_slope, value_slope), value_and_slopes(attend, louder, mask)[2:], strict=True):
        np.testing.assert_array_equal(quiet, loud)


def test_large_scores_and_no_keys_stay_finite():
    query, *others = make(5, 1, 3, 4, (2, 2))
    loud = [100.0 * query, *others]
    assert_same(value_and_slopes(attend, loud, None), value_and_slopes(plain, loud, None), 1e-3)
    nothing = value_and_slopes(attend, make(6, 1, 3, 0, (2, 2)), jnp.ones((1, 1, 0), bool))
    assert all(not each.any() for each in nothing[:2])


def test_it_composes_with_vmap_scan_and_checkpoint():
    inputs = make(7, 2, 5, 5, (4, 2))[:3]
    mask = make_mask("causal", 7, 2, 5, 5)
    apart = [each[:, None] for each in inputs]

    def loss(function, inputs, *, whole):
        @jax.checkpoint
        def layer(query, _):
            if whole:
                return function(query, *inputs[1:], mask), None
            rows = jax.vmap(function)(query[:, None], *(each[:, None] for each in inputs[1:]), mask[:, None])
            return rows[:, 0], None

        return jnp.sum(jnp.sin(jax.lax.scan(layer, inputs[0], None, length=3)[0]))

    expected = jax.grad(lambda inputs: loss(plain, inputs, whole=True))(inputs)
    for whole in (True, False):
        slopes = jax.jit(jax.grad(lambda inputs, whole=whole: loss(attend, inputs, whole=whole)))(inputs)
        for one, other in zip(slopes, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert jax.eval_shape(jax.vmap(attend), *apart).shape == (2, 1, 5, 4, 8)


def test_nothing_as_large_as_the_scores_is_kept():
    length, width = 64, 4
    inputs = make(8, 1, length, length, (2, 2), head_dim=width)[:3]
    _, pull = jax.vjp(lambda *arrays: attend(*arrays, **DROPOUT), *inputs)
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) <= 2 * length * width
