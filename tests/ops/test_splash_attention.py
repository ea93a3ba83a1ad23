"""The kernel for TPUs: equal to the body of `ops/attention.py`, chosen where it serves, refused where it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxt_jax.ops import AttentionMask, attend
from rxt_jax.ops.attention import choose_implementation
from rxt_jax.ops.splash_attention import splash_serves

LENGTH = 128
LENGTHS = jnp.arange(LENGTH)
DOCUMENTS = jnp.stack([1 + LENGTHS // 50, jnp.where(LENGTHS < 100, 1, 0)])
CASES = {
    "nothing hidden, more keys": (256, {}),
    "causal": (LENGTH, {"causal": True}),
    "real keys, none in the second row": (256, {"keys": jnp.arange(256) < jnp.array([[130], [0]])}),
    "causal behind padding": (LENGTH, {"causal": True, "keys": jnp.array([[5], [0]]) <= LENGTHS}),
    "packed": (LENGTH, {"causal": True, "documents": DOCUMENTS}),
}


def make(num_keys=LENGTH, length=LENGTH, dtype=jnp.bfloat16, heads=(4, 2)):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, length, heads[0], 32), (2, num_keys, heads[1], 32), (2, num_keys, heads[1], 32)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(("num_keys", "facts"), CASES.values(), ids=CASES.keys())
def test_values_and_slopes_are_those_of_our_own(num_keys, facts):
    inputs, mask = make(num_keys), AttentionMask(**facts)

    def run(implementation):
        def total(inputs):
            attended = attend(*inputs, mask, implementation=implementation).astype(jnp.float32)
            return jnp.sum(jnp.sin(attended)), attended

        return jax.jit(jax.grad(total, has_aux=True))(inputs)

    for found, expected in zip(*(jax.tree.leaves(run(name)) for name in ("splash", "einsum")), strict=True):
        found, expected = (np.asarray(each, np.float32) for each in (found, expected))
        np.testing.assert_allclose(found, expected, atol=0.02 * max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize(
    ("inputs", "facts", "reason"),
    [
        (make(100), {}, "100 keys are not multiples"),
        (make(dtype=jnp.float32), {}, "it is for bfloat16"),
        (make(), {"pairs": jnp.ones((2, 1, LENGTH), bool)}, "masks of pairs"),
    ],
)
def test_what_it_cannot_do_is_refused_and_auto_does_it_otherwise(inputs, facts, reason):
    mask = AttentionMask(**facts)
    with pytest.raises(ValueError, match=reason):
        attend(*inputs, mask, implementation="splash")
    np.testing.assert_array_equal(attend(*inputs, mask, implementation="auto"), attend(*inputs, mask))


def test_little_work_is_no_work_for_a_kernel():
    query, key, _ = make()
    assert "too few" in (splash_serves(query, key, has_pairs=False) or "")
    query, key, _ = make(1024, 1024)
    assert splash_serves(query, key, has_pairs=False) is None


@pytest.mark.parametrize(
    ("platform", "devices", "length", "chosen"),
    [
        ("tpu", 1, 1024, "splash"),
        ("tpu", 4, 1024, "einsum"),  # without a mesh nobody says which rows are whose
        ("tpu", 1, 128, "einsum"),
        ("gpu", 1, 1024, "cudnn"),
        ("gpu", 1, 128, "einsum"),
        ("cpu", 1, 1024, "einsum"),
    ],
)
def test_auto_is_what_serves_where_it_runs(platform, devices, length, chosen, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    query, key, _ = make(length, length)
    assert choose_implementation(query, key, AttentionMask(causal=True)) == chosen


@pytest.mark.parametrize(
    "mask", [AttentionMask(keys=jnp.ones((2, 8), bool)), AttentionMask(pairs=jnp.ones((2, 1, 8), bool))]
)
def test_cudnn_gets_an_entry_for_every_query(mask, monkeypatch):
    """It refuses one that all queries share: "Bias must have same seq length as QKV, got 1 and 1024" (H100)."""
    shapes = []

    def kernel(query, key, value, *, mask, is_causal, implementation):
        shapes.append(mask.shape)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    attend(*(jnp.ones((2, 8, 2, 16), jnp.bfloat16) for _ in range(3)), mask, implementation="cudnn")
    assert shapes == [(2, 1, 8, 8)]


def test_dropout_takes_our_own():
    inputs, given = make(), {"dropout_rate": 0.5, "dropout_key": jax.random.key(1)}
    np.testing.assert_array_equal(attend(*inputs, implementation="auto", **given), attend(*inputs, **given))
