"""Counting collectives and products in compiled programs, against programs whose counts are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rxt_jax.scaling import collectives_of, product_operations, read_program, total_by_kind, total_bytes
from rxt_jax.sharding import MeshConfig, make_mesh

# As a TPU compiler writes it: no known_trip_count, collectives in two halves, layouts with parentheses.
TPU_TEXT = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%less (i: s32[], n: s32[]) -> pred[] {
  %i = s32[]{:T(128)} parameter(0)
  %n = s32[]{:T(128)} parameter(1)
  ROOT %compare = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%condition (state: (s32[], bf16[4,128])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[4,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %six = s32[]{:T(128)} constant(6)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %fused = pred[]{:T(512)} fusion(%count, %six), kind=kLoop, calls=%less
}

%body (state: (s32[], bf16[4,128])) -> (s32[], bf16[4,128]) {
  %state.1 = (s32[]{:T(128)}, bf16[4,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %x = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state.1), index=1
  %gather = (bf16[4,128]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}) all-gather-start(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(f)/while/body/all_gather(x)"}
  %done = bf16[16,128]{1,0:T(8,128)(2,1)} all-gather-done(%gather)
  %w = bf16[128,128]{1,0} constant({...})
  %dot = f32[16,128]{1,0:T(8,128)} dot(%done, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %out = (s32[]{:T(128)}, /*index=1*/bf16[4,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%state.1, %x)
}

ENTRY %main (p: bf16[4,128]) -> f32[7] {
  %p = bf16[4,128]{1,0} parameter(0)
  %begin = (s32[], bf16[4,128]{1,0}) tuple(%p, %p)
  %while = (s32[], bf16[4,128]{1,0}) while(%begin), condition=%condition, body=%body
  %v = f32[7]{0} constant({...})
  %alone = f32[7]{0} all-reduce(%v), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %reduced = f32[7]{0} all-reduce(%v), replica_groups={}, to_apply=%add, metadata={op_name="jit(f)/psum"}
}
"""  # noqa: E501


def test_a_loop_without_a_known_length_runs_as_often_as_its_condition_says():
    gather, reduce = collectives_of(TPU_TEXT)
    assert (gather.kind, gather.times, gather.group, gather.bytes) == ("all-gather", 6, 4, 16 * 128 * 2)
    assert gather.source == "jit(f)/while/body/all_gather(x)"
    assert (reduce.kind, reduce.times, reduce.group, reduce.bytes) == ("all-reduce", 1, 8, 28)
    assert product_operations(TPU_TEXT) == 6 * 2 * 16 * 128 * 128
    assert read_program(TPU_TEXT).unknown_loops() == ()


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", 4),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", 8),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp':(1)2}", 4),
    ],
)
def test_groups_are_read_however_they_are_written(groups, size):
    gather = collectives_of(TPU_TEXT.replace("replica_groups=[2,4]<=[8]", f"replica_groups={groups}"))[0]
    assert gather.group == size


def test_groups_of_one_move_nothing():
    text = TPU_TEXT.replace("replica_groups=[2,4]<=[8]", "replica_groups=mesh['data'=8,'fsdp'=1] {'fsdp'}")
    assert [each.kind for each in collectives_of(text)] == ["all-reduce"]


def test_a_loop_that_data_ends_counts_once_and_is_named():
    text = TPU_TEXT.replace("%six = s32[]{:T(128)} constant(6)", "%six = s32[]{:T(128)} copy(%state)")
    assert [each.times for each in collectives_of(text)] == [1, 1]
    assert read_program(text).unknown_loops() == ("while",)


@pytest.mark.parametrize("text", ["", "module @jit_f {\n}", TPU_TEXT.replace("ENTRY ", "")])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="expected the text of a compiled program"):
        read_program(text)


@pytest.fixture(scope="module")
def compiled():
    """Three rounds of a product with a sum over devices inside, then one gather: `[8, 4] x [4, 4]`, eight devices."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))

    def f(x, w):
        def local(x, w):
            def round_(x, _):
                return jax.lax.psum(jnp.tanh(x @ w), "data"), None

            x, _ = jax.lax.scan(round_, x, None, length=3)
            return jax.lax.all_gather(x, "fsdp", tiled=True)

        return jax.shard_map(local, mesh=mesh, in_specs=(P("fsdp"), P()), out_specs=P(), check_vma=False)(x, w)

    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    w = jax.ShapeDtypeStruct((4, 4), jnp.float32, sharding=NamedSharding(mesh, P()))
    return jax.jit(f).lower(x, w).compile().as_text()


def test_collectives_of_a_compiled_program_count_as_often_as_they_run(compiled):
    totals = total_by_kind(collectives_of(compiled))
    assert set(totals) == {"all-reduce", "all-gather"}
    reduced, gathered = totals["all-reduce"], totals["all-gather"]
    assert (reduced.times, reduced.bytes) == (3, 3 * 2 * 4 * 4)  # two rows of four floats each
    assert (gathered.times, gathered.bytes) == (1, 8 * 4 * 4)
    assert total_bytes(collectives_of(compiled)) == reduced.bytes + gathered.bytes


def test_products_of_a_compiled_program_count_as_often_as_they_run(compiled):
    assert product_operations(compiled) == 3 * 2 * (2 * 4) * 4


def test_a_program_of_one_device_has_no_collectives():
    text = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile().as_text()
    assert collectives_of(text) == []
    assert read_program(text).devices == 1
