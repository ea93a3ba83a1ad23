"""What is kept of a forward pass: equal gradients, less memory, and options that do not exist."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import random_batch, small_config, small_model

from rxt_jax.nn.remat import named_activation, rematerialised
from rxt_jax.recipe import from_json, to_json
from rxt_jax.stages import MemoryAware, MemoryPretraining


def compiled(remat):
    """A scan of eight layers with a narrow activation that has a name and a wide one that has none."""

    def layer(x, weights):
        narrow = named_activation(x @ weights, "states")
        return narrow + jnp.sum(jnp.sin(narrow[..., None] * jnp.arange(32.0)), axis=-1), None

    def loss(x, weights):
        return jnp.sum(jax.lax.scan(rematerialised(layer, remat), x, weights)[0])

    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(jnp.ones((64, 16)), jnp.full((8, 16, 16), 0.05)).compile()


def test_less_is_kept_and_gradients_stay():
    programs = {remat: compiled(remat) for remat in ("none", "names:states", "full")}
    scratch = {remat: program.memory_analysis().temp_size_in_bytes for remat, program in programs.items()}
    # Eight layers of wide activations, of narrow ones beside what goes in, and of what goes in alone.
    assert scratch["none"] > 4 * scratch["names:states"] > 4 * scratch["full"]
    found = [program(jnp.ones((64, 16)), jnp.full((8, 16, 16), 0.05)) for program in programs.values()]
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[0], other)


@pytest.mark.parametrize("remat", ["names:attended", "offload"])
def test_an_encoder_learns_the_same_whatever_its_layers_keep(remat):
    ids, mask = random_batch()

    def slopes(config):
        graphdef, params = nnx.split(small_model(config))
        return jax.jit(jax.grad(lambda params: jnp.sum(nnx.merge(graphdef, params).encode(ids, mask) ** 2)))(params)

    kept, again = slopes(small_config()), slopes(small_config(remat=remat))
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "remat, message",
    [
        ("some", "remat must be none, full, names or offload"),
        ("full:attended", "remat must be none, full, names or offload"),
        ("names:attended,scores", "remat = 'names:attended,scores' names 'scores'; activations that can be kept are"),
        ("offload:", "remat = 'offload:' names nothing"),
    ],
)
def test_options_that_do_not_exist_are_refused(remat, message):
    for make in (small_config, MemoryAware, MemoryPretraining):
        with pytest.raises(ValueError, match=message):
            make(remat=remat)
    with pytest.raises(ValueError, match=r"remat must be none, full, names or offload, .* got True"):
        MemoryAware(remat=True)  # pyright: ignore[reportArgumentType]


def test_recipes_of_before_are_understood():
    for old, new in ((True, "full"), (False, "none")):
        stored = to_json(MemoryAware()) | {"remat": old}
        assert from_json(stored) == replace(MemoryAware(), remat=new)
