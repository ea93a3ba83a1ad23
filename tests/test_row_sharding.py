"""Activations on a mesh: what is constrained, what runs on a device's own rows, and what that adds up to."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from rxt_jax.row_sharding import constrain, map_rows, on_mesh
from rxt_jax.scaling import collectives_of, product_operations, total_by_kind
from rxt_jax.sharding import MeshConfig, batch_parts, batch_shardings, make_mesh, parameter_shardings

MESH = MeshConfig(data=2, fsdp=2, expert=2)
WIDTH = 16


def on(mesh, function):
    """Trace a function for a mesh."""

    def traced(*arguments):
        with on_mesh(mesh):
            return function(*arguments)

    return traced


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((4, 3))
    assert constrain(x, ("batch", None)) is x
    with on_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert constrain(x, ("batch", None)) is x
    with pytest.raises(ValueError, match=r"axes must name every dimension of \(4, 3\)"):
        constrain(x, ("batch",))


@pytest.mark.parametrize(
    "mesh, expected",
    [(MESH, P(("data", "fsdp", "expert"), None, None)), (MeshConfig(data=4, tensor=2), P("data", None, "tensor"))],
    ids=str,
)
def test_rows_are_split_over_everything_but_tensor(mesh, expected):
    mesh = make_mesh(mesh)
    whole = jax.device_put(jnp.ones((16, 3, 8)), jax.NamedSharding(mesh, P()))
    x = jax.jit(on(mesh, lambda x: constrain(x, ("batch", None, "vocab"))))(whole)
    assert x.sharding.is_equivalent_to(jax.NamedSharding(mesh, expected), 3)
    # What a mesh does not divide is left to the partitioner: neither cut unevenly nor copied.
    left = jax.make_jaxpr(on(mesh, lambda x: constrain(x, ("batch", None, "vocab"))))(jnp.ones((6, 3, 8)))
    assert "sharding_constraint" not in str(left)


def layer():
    return nnx.Param(jnp.sin(jnp.arange(WIDTH * WIDTH * 1.0)).reshape(WIDTH, WIDTH), axes=("embed", "mlp"))


def score(x, parameters, over):
    """Give every row a number, and all rows their sum of squares."""
    rows = jnp.sum(jnp.tanh(x @ parameters[...]), axis=-1)
    squares = jnp.sum(rows**2)
    return rows, jax.lax.psum(squares, over) if over else squares


@pytest.mark.parametrize("mesh", [MESH, MeshConfig(data=2, fsdp=2, tensor=2)], ids=str)
def test_functions_of_own_rows_give_what_all_rows_give(mesh):
    """Values, slopes of rows and of parameters; parameters and their slopes stay split."""
    mesh = make_mesh(mesh)
    x = jnp.cos(jnp.arange(16.0 * WIDTH)).reshape(16, WIDTH)
    parameters = layer()
    placed = jax.device_put(parameters, parameter_shardings({"": parameters}, mesh)[""])

    def loss(x, parameters):
        rows, squares = map_rows(score, x, parameters)
        return jnp.sum(jnp.sin(rows)) + squares

    learn = jax.value_and_grad(loss, (0, 1))
    expected = jax.jit(learn)(x, parameters)
    compiled = jax.jit(on(mesh, learn)).lower(jax.device_put(x, batch_shardings(x, mesh, 0)), placed).compile()
    found = compiled(jax.device_put(x, batch_shardings(x, mesh, 0)), placed)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    if mesh.shape["tensor"] > 1:
        return  # what devices say to each other about the columns is up to the partitioner
    text = compiled.as_text()
    kinds = total_by_kind(collectives_of(text))
    # Gathered once, and added up once over `fsdp` where it lives and over the devices that have all of it.
    assert kinds["all-gather"].bytes == 4 * WIDTH * WIDTH
    assert kinds["reduce-scatter"].times == 1
    assert product_operations(text) == 3 * 2 * 16 * WIDTH * WIDTH // batch_parts(mesh)


def test_rows_that_devices_cannot_share_are_together():
    seen = []

    def look(x, parameters, over):
        seen.append((x.shape, over))
        return x, ()

    jax.eval_shape(on(make_mesh(MESH), lambda x: map_rows(look, x)), jnp.ones((12, 3)))
    jax.eval_shape(on(make_mesh(MESH), lambda x: map_rows(look, x)), jnp.ones((16, 3)))
    assert seen == [((12, 3), ()), ((2, 3), ("data", "fsdp", "expert"))]


@dataclass(frozen=True)
class Device:
    """One of a slice of a pod, as far as a mesh looks at it."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_slices_of_a_pod_are_parts_of_data():
    devices = [Device(n, n // 4, n // 4) for n in range(8)]
    mesh = make_mesh(MeshConfig(data=4, fsdp=2), devices)
    assert mesh.shape == {"data": 4, "fsdp": 2, "tensor": 1, "expert": 1}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)[:, :, 0, 0]
    np.testing.assert_array_equal(slices, [[0, 0], [0, 0], [1, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"mesh.data = 1 must be a multiple of the 2 slices"):
        make_mesh(MeshConfig(data=1, fsdp=8), devices)
