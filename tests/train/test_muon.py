"""Muon on one device and on many: the numbers of optax, one exchange each way, types, and where moments live."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
from flax import nnx
from small import mixture_config

from rxt_jax.model import make_model
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.row_sharding import on_mesh
from rxt_jax.scaling import collectives_of, total_by_kind
from rxt_jax.sharding import MeshConfig, make_mesh, parameter_spec
from rxt_jax.stages import MemoryAware
from rxt_jax.train.groups import matrix_axes
from rxt_jax.train.muon import MatrixKernel, orthogonalised_momentum
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import abstract_state


def kernel(seed, shape, axes):
    return nnx.Param(jax.random.normal(jax.random.key(seed), shape), axes=axes)


KERNELS = {
    "query": kernel(0, (3, 16, 4, 4), ("embed", "query_heads", "head_dim")),  # three layers for eight devices
    "down": kernel(1, (3, 24, 16), ("mlp", "embed")),
    "experts": kernel(2, (2, 4, 16, 2, 8), ("experts", "embed", "parts", "mlp")),
    "alone": kernel(3, (16, 24), ("embed", "mlp")),
}
GRADIENTS = {path: variable[...] for path, variable in KERNELS.items()}


def momentum(**options):
    return orthogonalised_momentum({path: MatrixKernel(v, *matrix_axes(v)) for path, v in KERNELS.items()}, **options)


def two_updates(transform, gradients):
    state = transform.init(gradients)
    _, state = transform.update(gradients, state)
    return transform.update(jax.tree.map(jnp.cos, gradients), state)


def test_one_device_has_the_numbers_of_optax():
    dimensions = {path: optax.contrib.MuonDimensionNumbers(*matrix_axes(v)) for path, v in KERNELS.items()}
    theirs = optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions)
    expected = jax.jit(lambda gradients: two_updates(theirs, gradients))(GRADIENTS)
    found = jax.jit(lambda gradients: two_updates(momentum(), gradients))(GRADIENTS)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=8), MeshConfig(fsdp=2, tensor=2, expert=2)], ids=str)
def test_matrices_move_to_one_device_each_and_back(mesh):
    mesh = make_mesh(mesh)

    def directions(gradients):
        with on_mesh(mesh):
            return momentum().update(gradients, momentum().init(gradients))[0]

    places = {path: jax.NamedSharding(mesh, parameter_spec(v, mesh)) for path, v in KERNELS.items()}
    placed = jax.device_put(GRADIENTS, places)
    compiled = jax.jit(directions, out_shardings=places).lower(placed).compile()
    expected = jax.jit(lambda gradients: momentum().update(gradients, momentum().init(gradients))[0])(GRADIENTS)
    for path, found in compiled(placed).items():
        np.testing.assert_allclose(found, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)
        assert found.sharding.is_equivalent_to(places[path], found.ndim)
    if mesh.shape["fsdp"] == 8:
        kinds = total_by_kind(collectives_of(compiled.as_text()))
        # Every stacked kernel goes and comes back; the one without layers is gathered.
        assert set(kinds) == {"all-to-all", "all-gather"}
        assert kinds["all-to-all"].times == 2 * 3
        assert kinds["all-gather"].bytes == GRADIENTS["alone"].nbytes


def test_iterations_in_bfloat16_orthogonalise_as_well():
    found = jax.jit(lambda gradients: two_updates(momentum(dtype="bfloat16"), gradients)[0])(GRADIENTS)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    values = np.linalg.svd(np.asarray(found["down"]), compute_uv=False)
    assert values.min() > 0.5 and values.max() < 1.5


def options(**changes):
    return OptimizerConfig(**({"name": "adamw"} | changes))


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_first_moments_are_kept_in_the_type_that_was_asked_for(name):
    params = nnx.State(
        {"encoder": {"kernel": KERNELS["alone"]}, "decoder": {"scale": nnx.Param(jnp.ones(16), axes=("norm",))}}
    )
    optimizer = make_optimizer(options(name=name, moment_dtype="bfloat16"), params, total_updates=10)
    state = jax.eval_shape(optimizer.init, params)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    kept = {path: leaf.dtype for path, leaf in flat.items() if leaf.ndim and "ns_coeffs" not in path}
    assert {dtype for path, dtype in kept.items() if ".mu" in path} == {jnp.dtype("bfloat16")}
    assert {dtype for path, dtype in kept.items() if ".nu" in path} <= {jnp.dtype("float32")}
    gradients = {"encoder/kernel": GRADIENTS["alone"], "decoder/scale": jnp.ones(16)}
    fresh = optimizer.init(params)
    moved, after, _ = optimizer.apply(gradients, fresh, optimizer.trained(params), jnp.int32(0))
    types = [[leaf.dtype for leaf in jax.tree.leaves(each)] for each in (after, fresh)]
    assert types[0] == types[1]
    assert all(np.abs(moved[path] - value).max() > 0 for path, value in optimizer.trained(params).items())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"moment_dtype": "float16"}, "moment_dtype must be float32 or bfloat16"),
        ({"name": "adafactor", "moment_dtype": "bfloat16"}, "adafactor keeps no first moment"),
        ({"muon_dtype": "bfloat16"}, "muon_dtype = bfloat16 is for muon, got adamw"),
    ],
)
def test_types_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_are_split_like_parameters(name):
    """With fsdp = 8 a device has an eighth of every moment, but for those of vectors that are whole by rule."""
    params = nnx.split(nnx.eval_shape(lambda: make_model(mixture_config(), rngs=nnx.Rngs(0))))[1]
    optimizer = make_optimizer(options(name=name), params, total_updates=10)
    state = abstract_state(params, optimizer, MemoryAware(), make_mesh(MeshConfig(fsdp=8)))
    placed = {path: variable.get_value() for path, variable in flat_parameters(state.params).items()}
    moments = [
        (str(path[-1].key), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if leaf.ndim > 1
    ]
    assert len(moments) > 40
    for path, leaf in moments:
        assert leaf.sharding == placed[path].sharding, path
    whole = sum(leaf.size for _, leaf in moments)
    assert sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) for _, leaf in moments) < whole / 5
