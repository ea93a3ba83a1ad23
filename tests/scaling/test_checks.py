"""The checks of compile-check on programs that do, and do not, exchange what nobody asked for."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rxt_jax.compile_check.checks import check_collectives, kept_messages
from rxt_jax.scaling import collectives_of
from rxt_jax.sharding import MeshConfig, make_mesh

ROWS, WIDTH = 32, 24
MESH = make_mesh(MeshConfig(data=2, fsdp=4))
BATCH, SPLIT, WHOLE = (NamedSharding(MESH, spec) for spec in (P(("data", "fsdp")), P("fsdp"), P()))
PARAMETERS = {"kernel": jax.ShapeDtypeStruct((WIDTH, 16), jnp.float32, sharding=SPLIT)}


def passed(function, *, messages="", budget=None) -> dict[str, bool]:
    """Compile a function of parameters and a batch, and say which checks it passes."""
    rows = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=BATCH)
    text = jax.jit(function).lower(PARAMETERS, rows).compile().as_text()
    checks = check_collectives(collectives_of(text), PARAMETERS, rows=ROWS, messages=messages, budget=budget)
    return {each.name.split()[0]: each.passed for each in checks}


def loss(parameters, x):
    kernel = jax.lax.with_sharding_constraint(parameters["kernel"].astype(jnp.bfloat16), WHOLE)
    return jnp.sum(jax.lax.with_sharding_constraint(x @ kernel, BATCH) ** 2)


def test_a_step_that_moves_parameters_and_gradients_alone_passes():
    assert passed(jax.grad(loss)) == dict.fromkeys(("all-gathers", "no", "nothing", "traffic"), True)


def test_activations_of_all_rows_are_found():
    def gathered(parameters, x):
        return loss(parameters, x) + jnp.sum(jnp.sort(jax.lax.with_sharding_constraint(jnp.tanh(x), WHOLE), axis=0)[3])

    found = passed(gathered)
    assert not found["all-gathers"] and found["traffic"]

    axes = ("data", "fsdp")

    def joined(x):
        """Put the rows of a device where they belong among all of them, and add up: a gather in disguise."""
        first = jax.lax.axis_index(axes) * len(x)
        return jax.lax.psum(jax.lax.dynamic_update_slice(jnp.zeros((ROWS, WIDTH)), x, (first, 0)), axes)

    def added_up(parameters, x):
        everything = jax.shard_map(joined, mesh=MESH, in_specs=P(axes), out_specs=P(), check_vma=False)(x)
        return loss(parameters, x) + everything[3, 3]

    assert not passed(added_up)["no"]


def test_what_the_compiler_says_and_too_much_traffic_are_found():
    said = "W0000 spmd_partitioner.cc:1] [SPMD] Involuntary full rematerialization. The compiler cannot go from …"
    checks = check_collectives([], PARAMETERS, rows=ROWS, messages=said)
    assert [each.passed for each in checks] == [True, True, False, True]
    assert not passed(jax.grad(loss), budget=0.01)["traffic"] and passed(jax.grad(loss), budget=100.0)["traffic"]


def test_messages_are_kept_and_passed_on(capfd):
    with pytest.raises(KeyError), kept_messages() as messages:
        os.write(2, b"from the compiler\n")
        raise KeyError
    assert messages.text == "from the compiler\n" == capfd.readouterr().err
