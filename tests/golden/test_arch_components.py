"""Encoder, decoder, memory attention and their joint pass against the published implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, case_names
from small import call

from rxt_jax.compatibility import Compatibility
from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, load_weights
from rxt_jax.model import ReactiveTransformer

# The smallest network for the parts that a case does not have.
ANY = {"ff_dim": 4, "att_heads": 2, "att_groups": 1, "att_query_groups": 1}


def build(
    case: GoldenCase,
    prefixes: dict[str, str],
    *,
    decoder=None,
    encoder=None,
    memory=None,
    variant="simple",
    **compatibility,
) -> ReactiveTransformer:
    given = decoder or encoder or memory
    size = {
        name: given[name] for name in ("num_layers", "embed_dim", "vocab_size", "seq_len", "stm_size") if name in given
    }
    rest = ANY | {"vocab_size": 8} | size
    config = model_from_published(
        decoder or rest,
        encoder or rest,
        memory or rest,
        variant,
        compatibility=Compatibility(**compatibility),
    )
    graphdef, params = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(config, rngs=nnx.Rngs(0))))
    params, unused = load_weights(params, config, case.w, prefixes)
    ours = {"rope", "memory_cross_attention", "norm2", "stm_norm"}
    assert not [n for n in unused if not ours & set(n.split("."))], unused
    return nnx.merge(graphdef, params)


ENCODER = {"embedding": "model.embedding", "encoder": "model"}
DECODER = {"embedding": "model.embedding", "decoder": "model"}


@pytest.mark.parametrize("name", case_names("arch", "encoder_"))
def test_encoder(name):
    case = GoldenCase("arch", name)
    model = build(case, ENCODER, encoder=case.config)
    ids, real = case.i["ids"].astype(jnp.int32), case.i["mask"] > 0
    encoded = call(model, "encode", ids, jnp.ones_like(real))
    case.check(encoded, "hidden")
    case.check(encoded[-1], "last")
    rows = np.broadcast_to(np.asarray(real), encoded.shape[:-1])
    case.check(call(model, "encode", ids, real), "hidden_masked", rows=rows)
    if "hidden_flash_padding" in case.o:
        quirky = build(case, ENCODER, encoder=case.config, zero_padding=True)
        case.check(call(quirky, "encode", ids, real), "hidden_flash_padding")


@pytest.mark.parametrize("name", case_names("arch", "decoder_"))
def test_decoder(name):
    case = GoldenCase("arch", name)
    model = build(case, DECODER, decoder=case.config)
    ids, memory = case.i["ids"].astype(jnp.int32), case.i["stm"]
    real = np.asarray(case.i["mask"]) > 0
    everything = jnp.ones(ids.shape, bool)
    graphdef, params = nnx.split(model)

    @jax.jit
    def read(params, mask, memory):
        model = nnx.merge(graphdef, params)
        hidden, balance = model.decode_hidden(ids, mask, memory)
        return model.logits(hidden), balance

    @jax.jit
    def read_with_cache(params):
        model, positions = nnx.merge(graphdef, params), jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        cache, projection = model.empty_cache(*ids.shape), model.project_memory(memory)
        return model.decode_cached(ids, positions, everything, cache, projection)[0]

    logits, balance = read(params, everything, memory)
    case.check(logits, "logits")
    if "router_loss" in case.o:
        case.check(balance, "router_loss")
    case.check(read(params, jnp.asarray(real), memory)[0], "logits_masked", rows=real)
    case.check(read_with_cache(params), "logits_cached_memory")
    if "logits_memory_batch1" in case.o:
        one = jnp.repeat(memory[:, :1], ids.shape[0], axis=1)
        case.check(read(params, everything, one)[0], "logits_memory_batch1")


@pytest.mark.parametrize("name", case_names("arch", "memattn_"))
def test_memory_attention(name):
    case = GoldenCase("arch", name)
    config = dict(case.config)
    variant = config.pop("variant")
    prefixes = {"memory_attention": "model"}
    model = build(case, prefixes, memory=config, variant=variant)
    quirky = build(case, prefixes, memory=config, variant=variant, zero_padding=True)
    real = case.i["mask"] > 0
    first, second = case.i["encoded1"], case.i["encoded2"]
    for mask, suffix in ((jnp.ones_like(real), ""), (real, "_masked")):
        memory = call(model, "update_memory", case.i["stm"], first, mask)
        case.check(memory, f"stm1{suffix}")
        case.check(call(model, "update_memory", memory, second, mask), f"stm2{suffix}")
    case.check(call(quirky, "update_memory", case.i["stm"], first, real), "stm1_flash_padding")


@pytest.mark.parametrize("name", case_names("arch", "joint_pretrain"))
def test_joint_pretraining_pass(name):
    case = GoldenCase("arch", name)
    config = case.config
    parts = {k: v for k, v in COMPONENT_PREFIXES.items() if k != "memory_attention"}
    model = build(case, parts, decoder=config["decoder_config"], encoder=config["encoder_config"])
    real = case.i["mask"] > 0
    for mask, suffix in ((jnp.ones_like(real), "_nomask"), (real, "")):
        rows = np.asarray(mask)
        encoded = call(model, "encode", case.i["encoder_ids"].astype(jnp.int32), mask)
        case.check(model.masked_language_logits(encoded[-1]), f"mlm_logits{suffix}", rows=rows)
        # Published: padded encoder states stay visible to the decoder.
        logits = call(model, "decode", case.i["decoder_ids"].astype(jnp.int32), mask, encoded)
        case.check(logits, f"decoder_logits{suffix}", rows=rows)
