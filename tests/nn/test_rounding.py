"""Kernels are rounded once per step, and their slopes are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import mixture_config, random_batch, small_config, small_model

from rxt_jax.nn.linear import Linear
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.nn.rounding import RoundedKernel, with_rounded_kernels

TOKENS = 2001  # bfloat16 has 2000 and 2008


class Holder(nnx.Module):
    """A model of one map from two axes to two."""

    def __init__(self):
        self.config = small_config(dtype="bfloat16")
        self.map = Linear({"mlp": 2, "parts": 1}, {"query_heads": 2, "head_dim": 3}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("wide", [False, True])
def test_slopes_of_a_rounded_kernel_add_up_in_float32(wide):
    graphdef, params = nnx.split(Holder())
    x = jnp.ones((3, TOKENS // 3, 2, 1), jnp.bfloat16)

    def total(params, x, rounded):
        model = nnx.merge(graphdef, params)
        model = with_rounded_kernels(model) if rounded else model
        return jnp.sum(model.map(x, wide=wide).astype(jnp.float32))

    slope, rows = jax.grad(total, (0, 1))(params, x, True)
    np.testing.assert_array_equal(slope["map"]["kernel"][...], np.full((2, 1, 2, 3), TOKENS))
    plain, expected = jax.grad(total, (0, 1))(params, x, False)
    np.testing.assert_allclose(rows.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.01)
    if not wide:
        assert float(plain["map"]["kernel"][...].max()) != TOKENS  # what the copy is for


def test_a_model_in_bfloat16_computes_the_same_with_rounded_kernels():
    """Values are bit for bit those of casts in every product; every matrix has a copy, and float32 models have none."""
    ids, mask = random_batch(rows=2)
    model = small_model(mixture_config())
    assert not jax.tree.leaves(nnx.state(with_rounded_kernels(model), RoundedKernel))
    config = small_config(dtype="bfloat16")
    graphdef, params = nnx.split(small_model(config))

    def encode(params, rounded):
        model = nnx.merge(graphdef, params)
        return (with_rounded_kernels(model) if rounded else model).encode(ids, mask)

    plain, once = (jax.jit(encode, static_argnums=1)(params, rounded) for rounded in (False, True))
    np.testing.assert_array_equal(plain, once)
    copies = nnx.to_flat_state(nnx.state(with_rounded_kernels(nnx.merge(graphdef, params)), RoundedKernel))
    kernels = {path for path in flat_parameters(params) if path.endswith("/kernel")}
    assert {"/".join(map(str, path)).replace("rounded_", "") for path, _ in copies} == kernels
    assert {leaf.dtype for _, leaf in copies} == {jnp.dtype("bfloat16")}
