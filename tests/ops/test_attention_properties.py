"""What attention must do for every head layout, not only in the golden cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig, MixtureOfExperts
from rxt_jax.ops.attention import AttentionMask, attend
from rxt_jax.ops.routing import balance_loss, grouped_product, route, sort_by_expert


def plain_attention(query, key, value, mask):
    """One head at a time, as the papers write it."""
    heads = max(query.shape[2], key.shape[2])
    out = []
    for head in range(heads):
        if query.shape[2] >= key.shape[2]:
            q, k = head, head // (query.shape[2] // key.shape[2])
        else:
            q, k = head % query.shape[2], head
        scores = np.einsum("bth,bsh->bts", query[:, :, q], key[:, :, k]) / np.sqrt(query.shape[-1])
        scores = np.where(mask, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out.append(np.einsum("bts,bsh->bth", weights / weights.sum(-1, keepdims=True), value[:, :, k]))
    return np.stack(out, axis=2)


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (4, 2), (4, 1), (2, 4), (1, 4)])
def test_every_head_layout_equals_the_plain_formula(queries, keys):
    rng = np.random.default_rng(queries * 10 + keys)
    query = rng.normal(size=(2, 5, queries, 6)).astype(np.float32)
    key, value = (rng.normal(size=(2, 7, keys, 6)).astype(np.float32) for _ in range(2))
    mask = rng.random((2, 5, 7)) < 0.7
    mask[:, :, 0] = True
    actual = attend(*map(jnp.asarray, (query, key, value)), AttentionMask(pairs=jnp.asarray(mask)))
    np.testing.assert_allclose(actual, plain_attention(query, key, value, mask), atol=1e-5)


def test_a_query_that_sees_nothing_gets_zeros_and_a_finite_gradient():
    x = jnp.ones((1, 3, 2, 4))
    mask = AttentionMask(keys=jnp.zeros((1, 3), bool))
    value, slope = jax.value_and_grad(lambda x: jnp.sum(attend(x, x, x, mask) ** 2))(x)
    assert value == 0.0
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_facts_of_a_mask_hold_together():
    real = jnp.array([[True, True, False]])
    np.testing.assert_array_equal(
        AttentionMask(keys=real, causal=True).dense(3)[0],
        [[True, False, False], [True, True, False], [True, True, False]],
    )
    np.testing.assert_array_equal(AttentionMask(keys=real).dense(3)[0], [[True, True, False]])
    packed = AttentionMask(documents=jnp.array([[1, 1, 2, 0]]), pairs=jnp.ones((1, 4, 4), bool).at[0, 0, 0].set(False))
    np.testing.assert_array_equal(
        packed.dense(4)[0], np.array([[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    )
    assert AttentionMask().dense(3) is None
    with pytest.raises(ValueError, match="2 queries and 3 keys"):
        attend(jnp.ones((1, 2, 1, 4)), *2 * [jnp.ones((1, 3, 1, 4))], AttentionMask(causal=True))


MASKS = {
    "nothing hidden": {},
    "causal": {"causal": True},
    "keys": {"keys": jnp.array([[True, False, True, True], [False] * 4])},
    "packed": {"documents": jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]]), "causal": True},
    "pairs": {"pairs": jnp.tril(jnp.ones((1, 4, 4), bool), -1)},
}


@pytest.mark.parametrize("heads", [(4, 2), (2, 4)])
@pytest.mark.parametrize("facts", MASKS.values(), ids=MASKS.keys())
def test_the_kernel_of_the_library_equals_our_own(facts, heads):
    """Values and slopes, also of queries that see nothing."""
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=(2, 4, count, 8)), jnp.float32) for count in (heads[0], heads[1], heads[1])]
    mask = AttentionMask(**facts)

    def run(implementation):
        def total(inputs):
            return jnp.sum(jnp.sin(attend(*inputs, mask, implementation=implementation)))

        return jax.jit(jax.value_and_grad(total))(inputs)

    for found, expected in zip(*(jax.tree.leaves(run(name)) for name in ("xla", "einsum")), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_a_kernel_cannot_do_is_refused():
    x = jnp.ones((1, 3, 2, 4))
    with pytest.raises(ValueError, match="no dropout"):
        attend(x, x, x, dropout_rate=0.1, dropout_key=jax.random.key(0), implementation="xla")
    with pytest.raises(ValueError, match="implementation='einsum'"):
        AttentionConfig(num_query_heads=2, num_kv_heads=2, head_dim=4, dropout=0.1, implementation="xla")


@settings(max_examples=6, deadline=None)  # every shape compiles anew
@given(st.sampled_from((1, 7, 40)), st.sampled_from((1, 2, 6)), st.integers(0, 10_000))
def test_no_token_is_lost_or_mixed_up_on_its_way_to_the_experts(tokens, num_experts, seed):
    rng = np.random.default_rng(seed)
    chosen = min(2, num_experts)
    experts = np.stack([rng.permutation(num_experts)[:chosen] for _ in range(tokens)])
    places = sort_by_expert(jnp.asarray(experts), num_experts)
    x = rng.normal(size=(tokens, 3)).astype(np.float32)
    kernels = rng.normal(size=(num_experts, 3, 2)).astype(np.float32)
    rows = np.concatenate([x, np.zeros((1, 3), np.float32)])[np.asarray(places.token)]
    product = np.asarray(grouped_product(jnp.asarray(rows), jnp.asarray(kernels), places))
    expected = np.einsum("nd,nkdf->nkf", x, kernels[experts])
    np.testing.assert_allclose(product[np.asarray(places.place)], expected, atol=1e-5)


def test_switch_loss_is_one_for_even_use_and_grows_with_unevenness():
    even = route(jnp.log(jnp.eye(4) * 0.96 + 0.01), 1)
    uneven = route(jnp.log(jnp.tile(jnp.array([[0.97, 0.01, 0.01, 0.01]]), (4, 1))), 1)
    np.testing.assert_allclose(balance_loss(even, None), 1.0, atol=1e-5)
    assert balance_loss(uneven, None) > 3.0
    # The published loss cannot tell the two apart.
    np.testing.assert_allclose(
        balance_loss(even, None, "published"), balance_loss(uneven, None, "published"), rtol=0.02
    )


def test_padding_does_not_enter_the_switch_loss():
    logits = jnp.array([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [5.0, 0.0]])
    real = jnp.array([True, True, False, False])
    np.testing.assert_allclose(balance_loss(route(logits, 1), real), balance_loss(route(logits[:2], 1), None))


@pytest.mark.parametrize(("tokens", "tiles"), [(1, 2), (3, 6)])
def test_few_tokens_have_as_many_tiles_as_choices(tokens, tiles):
    """Each tile reads the kernel of an expert: a single token reads those of its own two, not of all twelve."""
    apart = np.arange(2 * tokens).reshape(tokens, 2)  # no two choices share an expert: as many tiles as there can be
    for experts in (apart, np.zeros_like(apart)):
        places = sort_by_expert(jnp.asarray(experts, jnp.int32), 12)
        assert len(places.tile_expert) == tiles
        assert int(jnp.max(places.place)) < tiles * places.tile


@pytest.mark.parametrize("kind", ["switch", "published"])
def test_groups_of_rows_have_balance_losses_of_their_own(kind):
    config = MixtureConfig(num_experts=4, experts_per_token=2, mlp_dim=8, num_shared_experts=2, balance_loss=kind)
    layer = MixtureOfExperts(8, config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (6, 5, 8))
    mask = jnp.arange(5) < jnp.array([5, 2, 4, 5, 1, 3])[:, None]
    graphdef, params = nnx.split(layer)

    @functools.partial(jax.jit, static_argnums=2)
    def run(x, mask, groups):
        return nnx.merge(graphdef, params)(x, mask, balance_groups=groups)

    output, losses = run(x, mask, 2)
    assert losses.shape == (2,) and abs(float(losses[0] - losses[1])) > 1e-4
    for group in range(2):
        alone, loss = run(x[group::2], mask[group::2], None)
        np.testing.assert_allclose(output[group::2], alone, atol=1e-5)
        np.testing.assert_allclose(losses[group], loss, rtol=1e-5)
