"""The critic's head, and how fresh parameters are distributed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, case_names
from small import call, small_model

from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, exported_weights, load_weights
from rxt_jax.model import ReactiveTransformer
from rxt_jax.model.critic_head import CriticHead

SMALLEST = {"ff_dim": 4, "att_heads": 2, "att_groups": 1, "att_query_groups": 1}


@pytest.mark.parametrize("name", case_names("arch", "critic_head"))
def test_critic_head(name):
    """Source: docs/method.md, eq. 52."""
    case = GoldenCase("arch", name)
    fields = case.config["encoder_config"]
    size = {name: fields[name] for name in ("num_layers", "embed_dim", "vocab_size", "seq_len", "stm_size")}
    config = model_from_published(SMALLEST | size, fields, SMALLEST | size, "simple")
    graphdef, params = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(config, rngs=nnx.Rngs(0))))
    prefixes = {name: COMPONENT_PREFIXES[name] for name in ("embedding", "encoder")}
    model = nnx.merge(graphdef, load_weights(params, config, case.w, prefixes)[0])
    head = CriticHead(config.embed_dim, rngs=nnx.Rngs(0))
    width = config.embed_dim
    head.gate.kernel[...] = jnp.asarray(case.w["value_head.0.linear.weight"].T.reshape(width, 2, width))
    head.gate.bias[...] = jnp.asarray(case.w["value_head.0.linear.bias"].reshape(2, width))
    head.norm.scale[...] = jnp.asarray(case.w["value_head.1.weight"])
    head.norm.bias[...] = jnp.asarray(case.w["value_head.1.bias"])
    head.value.kernel[...] = jnp.asarray(case.w["value_head.2.weight"].T)
    head.value.bias[...] = jnp.asarray(case.w["value_head.2.bias"])
    head.scale[...], head.shift[...] = jnp.asarray(case.w["scale"]), jnp.asarray(case.w["shift"])
    ids, real = case.i["ids"].astype(jnp.int32), case.i["mask"] > 0
    everything = jnp.ones_like(real)
    shape = case.o["value"].shape
    case.check(head(call(model, "encode", ids, everything)[-1]).reshape(shape), "value")
    case.check(head(call(model, "encode", ids, real)[-1], real).reshape(shape), "value_masked")


@pytest.mark.slow
@pytest.mark.parametrize("name", case_names("arch", "init_stats"))
def test_fresh_parameters_are_distributed_as_published(name):
    """Mean within five standard errors, deviation within 5 %, extremes within the support.

    Source: docs/method.md §11.
    """
    case = GoldenCase("arch", name)
    parts = (case.config[f"{name}_config"] for name in ("decoder", "encoder", "memory_attention"))
    config = model_from_published(*parts, case.config["memory_attention_variant"])
    seeds = case.config["seeds"]

    def make(key):
        return nnx.split(ReactiveTransformer(config, rngs=nnx.Rngs(key)))[1]

    many = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(1), seeds))
    fresh = [jax.tree.map(lambda leaf, n=n: leaf[n], many) for n in range(seeds)]
    pooled = [{name: read() for name, _, read in exported_weights(each, config)} for each in fresh]
    model = small_model(config)
    memory = jax.vmap(lambda key: model.initial_memory(1, key))(jax.random.split(jax.random.key(0), seeds))
    checked = 0
    for facts, (mean, deviation, low, high) in zip(case.facts["parameters"], case.o["stats"], strict=True):
        tensor = facts["name"]
        if tensor.endswith("stm.memory"):
            values = np.asarray(memory)
        elif tensor == "decoder.model.embedding.weight":
            values = np.stack([each["encoder.model.embedding.weight"] for each in pooled])
        elif tensor in pooled[0]:
            values = np.stack([each[tensor] for each in pooled])
        else:
            assert "rope" in tensor or "slot_status" in tensor or tensor.startswith("mlm_head"), tensor
            continue
        checked += 1
        error = max(deviation, 1e-7) * np.sqrt(2 / values.size)
        assert abs(values.mean() - mean) <= 5 * error + 1e-6, tensor
        # Few draws scatter more than 5 %: the deviation of a deviation is about 1 / sqrt(2 n).
        assert abs(values.std() - deviation) <= max(0.05, 5 / np.sqrt(values.size)) * deviation + 1e-6, tensor
        spread = high - low
        assert values.min() >= low - 0.5 * spread - 1e-6 and values.max() <= high + 0.5 * spread + 1e-6, tensor
    assert checked > 140
