"""The TPU kernel of the experts: the numbers of the blocks (interpreted), and a program that a TPU is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxt_jax.ops import grouped_kernel, routing

EXPERTS, WIDTH, HIDDEN = 5, 128, 256


@pytest.fixture(scope="module")
def given():
    """Tokens of four experts, of which one has many; the fifth has none."""
    draws = np.random.default_rng(0)
    experts = jnp.asarray(draws.choice([0, 1, 1, 1, 3, 4], (60, 2)))
    places = routing.sort_by_expert(experts, EXPERTS)
    tiles = jnp.asarray(draws.normal(size=(len(places.tile_expert), places.tile, WIDTH)), jnp.float32)
    kernels = jnp.asarray(draws.normal(size=(EXPERTS, WIDTH, HIDDEN)), jnp.float32)
    slope = jnp.asarray(draws.normal(size=(*tiles.shape[:2], HIDDEN)), jnp.float32)
    return tiles, kernels, slope, places.tile_expert


def test_the_kernel_gives_the_numbers_of_the_blocks(given):
    tiles, kernels, slope, tile_expert = given
    expected, back = jax.vjp(
        lambda tiles, kernels: routing._multiply(tiles, kernels, kernels, tile_expert), tiles, kernels
    )
    found = (
        grouped_kernel.multiply_tiles(tiles, kernels, tile_expert, interpret=True),
        grouped_kernel.tile_slopes(slope, kernels, tile_expert, interpret=True),
        grouped_kernel.kernel_slopes(tiles, slope, tile_expert, EXPERTS, interpret=True),
    )
    for one, other in zip(found, (expected, *back(slope)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    assert not np.any(found[2][2])  # nobody went to expert 2


def test_a_tpu_is_given_the_kernel_and_a_cpu_the_blocks(given, monkeypatch):
    tiles, kernels, _, tile_expert = (jnp.asarray(each) for each in given)

    def learn(tiles, kernels):
        return jax.grad(lambda *both: jnp.sum(routing._multiply(*both, both[1], tile_expert) ** 2), (0, 1))(
            tiles, kernels
        )

    assert not grouped_kernel.kernels_run_here()
    monkeypatch.setattr(routing, "kernels_run_here", lambda: True)
    shapes = [jax.ShapeDtypeStruct(each.shape, jnp.bfloat16) for each in (tiles, kernels)]
    for platform, expected in (("tpu", 3), ("cpu", 0)):
        text = jax.export.export(jax.jit(learn), platforms=[platform])(*shapes).mlir_module()
        assert text.count("tpu_custom_call") == expected
