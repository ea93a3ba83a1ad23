"""Fresh parameters come from a program that is cheaper to compile and makes the same numbers."""

import jax
import numpy as np
import pytest
from flax import nnx
from small import mixture_config, small_config

from rxt_jax.model import fresh_parameters as fresh
from rxt_jax.model import make_model, presets


@pytest.mark.slow  # to optimise them fully takes a minute
@pytest.mark.parametrize(
    "config", [presets.toy(), mixture_config(), presets.baseline_like(small_config(), max_length=64)]
)
def test_they_are_bit_for_bit_those_of_the_fully_optimised_program(config):
    fully = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    whole = jax.jit(lambda: nnx.split(make_model(config, rngs=nnx.Rngs(7)))[1], compiler_options=fully)()
    cheap = nnx.split(fresh.build_model(config, 7))[1]
    assert jax.tree.structure(cheap) == jax.tree.structure(whole)
    for one, other in zip(jax.tree.leaves(cheap), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(one).view(np.uint8), np.asarray(other).view(np.uint8))


@pytest.mark.parametrize(("platform", "asked"), [("cpu", {"xla_backend_optimization_level": 1}), ("gpu", None)])
def test_only_the_cpu_is_asked_to_optimise_less(platform, asked, monkeypatch):
    found = []
    jit = jax.jit
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "jit", lambda function, **options: found.append(options) or jit(function))
    fresh.build_model(small_config(), 0)
    assert asked in [options.get("compiler_options", "not a word") for options in found]
