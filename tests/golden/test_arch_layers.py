"""Single layers against numbers measured on the published implementation."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import GoldenCase, case_names, fill_layer
from small import call

from rxt_jax.interop.rxlm_config import attention_from_published
from rxt_jax.model.masked_language_head import MaskedLanguageHead
from rxt_jax.nn.attention import Attention
from rxt_jax.nn.feed_forward import FeedForward, FeedForwardConfig
from rxt_jax.nn.layers import CachedKeys
from rxt_jax.nn.memory_norms import MemoryNorm, MemoryNormConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig, MixtureOfExperts
from rxt_jax.nn.residual_gates import ResidualGate, ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.ops.attention import AttentionMask
from rxt_jax.ops.rotary import apply_rotary, rotary_angles

ATTENTION = "encoder/layers/0/attention"


def make_attention(case: GoldenCase) -> Attention:
    config = case.config
    heads = attention_from_published(
        config["attention_type"],
        heads=config["num_heads"],
        groups=config.get("num_groups"),
        query_groups=config.get("num_query_groups"),
        embed_dim=config["embed_dim"],
        head_dim=config.get("head_dim"),
        gated=config.get("use_gated_attention", False),
        gate_activation=config.get("gated_attention_activation", "sigmoid"),
        query_key_norm=config.get("use_qk_norm", False),
        input_bias=config.get("use_bias", False),
        output_bias=config.get("use_output_bias", True),
    )
    rotary = RotaryConfig(
        base=float(config.get("rope_base", 10000)),
        legacy_layout=config.get("legacy_rope_layout", False),
    )
    return fill_layer(functools.partial(Attention, config["embed_dim"], heads, rotary), case.w, ATTENTION)


def heads_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, 2)


def holds(output: str):
    """Pick the cases that have a tensor of this name."""
    return lambda facts: any(tensor["name"] == f"out.{output}" for tensor in facts["tensors"])


@pytest.mark.parametrize("name", case_names("arch", "rope_", where=holds("q_rot")))
def test_rotary(name):
    case = GoldenCase("arch", name)
    width, base = case.config["head_dim"], float(case.config["base"])
    case.check(rotary_angles(jnp.arange(case.config["max_seq_len"]), width, base), "angles")
    for side in ("q", "k"):
        x = heads_last(case.i[side])
        angles = rotary_angles(jnp.arange(x.shape[1])[None], width, base)
        case.check(heads_last(apply_rotary(x, angles)), f"{side}_rot")
        one = heads_last(case.i[f"{side}1"])
        angles = rotary_angles(case.i["positions"][:, None], width, base)
        case.check(heads_last(apply_rotary(one, angles)), f"{side}1_on")


@pytest.mark.parametrize("name", case_names("arch", "rope_", where=holds("q_rot_legacy")))
def test_rotary_legacy_layout(name):
    case = GoldenCase("arch", name)
    for side in ("q", "k"):
        x = heads_last(case.i[side])
        angles = rotary_angles(jnp.arange(x.shape[1])[None], case.config["head_dim"], float(case.config["base"]))
        case.check(heads_last(apply_rotary(x, angles, legacy_layout=True)), f"{side}_rot_legacy")


@pytest.mark.parametrize("name", case_names("arch", "rope_", where=holds("q_rot_bf16_angles")))
def test_rotary_angles_in_bfloat16(name):
    case = GoldenCase("arch", name)
    x = jnp.asarray(heads_last(case.i["q"]))
    angles = rotary_angles(jnp.arange(x.shape[1])[None], case.config["head_dim"], float(case.config["base"]))
    case.check(heads_last(apply_rotary(x, angles)), "q_rot_f32_angles", atol=1e-4)
    rounded = apply_rotary(x.astype(jnp.bfloat16), angles.astype(jnp.bfloat16))
    case.check(heads_last(rounded), "q_rot_bf16_angles", atol=0.05, rtol=0.02)


@pytest.mark.parametrize("name", case_names("arch", "attn_"))
def test_attention(name):
    case = GoldenCase("arch", name)
    attention = make_attention(case)
    x, real = case.i["x"], jnp.asarray(case.i["mask"], bool)
    positions = jnp.arange(x.shape[1])[None]
    own = attention.project(x, positions)
    case.check(attention(x, *own, None, positions), "full")
    case.check(attention(x, *own, AttentionMask(keys=real), positions), "full_masked")
    case.check(attention(x, *own, AttentionMask(causal=True), positions), "causal")
    # Right padding: masking keys as well changes nothing for real tokens.
    masked = attention(x, *own, AttentionMask(keys=real, causal=True), positions)
    case.check(masked, "causal_masked", rows=np.asarray(real))


@pytest.mark.parametrize("name", case_names("arch", "cross_attn_"))
def test_cross_attention(name):
    case = GoldenCase("arch", name)
    attention = make_attention(case)
    keys, values = attention.project(case.i["stm"])
    case.check(heads_last(np.asarray(keys)), "k_cache")
    case.check(heads_last(np.asarray(values)), "v_cache")
    positions = jnp.arange(case.i["x"].shape[1])[None]
    case.check(attention(case.i["x"], keys, values, None, positions), "y")
    at = case.i["positions"][:, None]
    case.check(attention(case.i["x1"], keys, values, None, at), "y1")


@pytest.mark.parametrize("name", case_names("arch", "memory_write_attn"))
def test_memory_write_attention(name):
    case = GoldenCase("arch", name)
    attention = make_attention(case)
    own = attention.project(case.i["x"], jnp.arange(case.i["x"].shape[1])[None])
    case.check(attention(case.i["stm"], *own), "y")
    case.check(attention(case.i["stm"], *own, AttentionMask(keys=case.i["mask"] > 0)), "y_masked")


@pytest.mark.parametrize("name", case_names("arch", "kv_cache_"))
def test_cached_attention(name):
    case = GoldenCase("arch", name)
    attention = make_attention(case)
    real = np.asarray(case.i["mask"]) > 0
    batch, prompt = real.shape
    steps = case.i["steps"].shape[1]
    length = prompt + steps
    heads = (attention.config.num_kv_heads, attention.config.head_dim)
    empty = jnp.zeros((batch, length, *heads))
    cache, mask = CachedKeys(empty, empty), jnp.zeros((batch, length), bool)

    def run(x, positions, token_mask, cache, mask):
        cache = cache.written(*attention.project(x, positions), positions)
        mask = mask.at[jnp.arange(batch)[:, None], positions].set(token_mask)
        visible = AttentionMask(keys=mask, pairs=jnp.arange(length) <= positions[..., None])
        return attention(x, *cache, visible, positions), cache, mask

    positions = jnp.broadcast_to(jnp.arange(prompt), real.shape)
    y, cache, mask = run(case.i["prefill"], positions, jnp.asarray(real), cache, mask)
    case.check(y, "prefill", rows=real)
    for step in range(steps):
        at = jnp.asarray(real.sum(1) + step)[:, None]
        x = case.i["steps"][:, step : step + 1]
        y, cache, mask = run(x, at, jnp.ones((batch, 1), bool), cache, mask)
        case.check(y, f"step{step}")
    np.testing.assert_array_equal(mask, case.o["mask_cache"][:, 0, 0])
    rows = np.asarray(mask)
    np.testing.assert_allclose(np.asarray(cache.keys)[rows], np.moveaxis(case.o["k_cache"], 1, 2)[rows], atol=1e-5)


@pytest.mark.parametrize("name", case_names("arch", "ff_"))
def test_feed_forward(name):
    case = GoldenCase("arch", name)
    config = case.config
    gated = config["use_gated"]
    settings = FeedForwardConfig(
        mlp_dim=config["ff_dim"],
        gated=gated,
        activation={"swish": "silu"}.get(config["activation"], config["activation"]),
        bias=config["use_bias"],
    )
    make = functools.partial(FeedForward, config["embed_dim"], settings)
    module = fill_layer(make, case.w, "encoder/layers/0/feed_forward", gated=gated)
    case.check(module(case.i["x"]), "y")


@pytest.mark.parametrize("name", case_names("arch", "moe_"))
def test_mixture_of_experts(name):
    case = GoldenCase("arch", name)
    config = case.config
    listed = not config["use_vectorized_moe"]
    settings = MixtureConfig(
        num_experts=config["num_experts"],
        experts_per_token=config["moe_top_k"],
        mlp_dim=config["ff_dim"],
        gated=config["use_gated"],
        activation=config["ff_activation"],
        bias="local" if listed else config.get("bias_mode", "global"),
        num_shared_experts=config.get("num_shared_experts", 0),
        shared_mlp_dim=config.get("shared_expert_dim"),
        shared_bias=config.get("shared_experts_bias_mode", "local"),
        weigh_shared=config.get("use_weighted_shared_experts", False),
        balance_loss="published",
    )
    make = functools.partial(MixtureOfExperts, config["embed_dim"], settings)
    module = fill_layer(make, case.w, "encoder/layers/0/feed_forward", gated=config["use_gated"])
    y, loss = call(module, "__call__", case.i["x"])
    case.check(y, "y")
    # Experts in a list have no loss on the mixture of shared experts.
    if not listed:
        case.check(loss, "router_loss")
    case.check(call(module, "__call__", case.i["x"][:1, :1])[0], "y_single_token")


@pytest.mark.parametrize("name", case_names("arch", "memnorm_"))
def test_memory_norm(name):
    case = GoldenCase("arch", name)
    config, x = case.config, jnp.asarray(case.i["x"])
    kind = config["norm_type"].replace("-", "_")
    settings = MemoryNormConfig(
        kind=kind,
        gated=config.get("use_gate", True),
        per_channel_scale=config.get("per_dim_scale", False),
        decay=config.get("decay", 0.9),
    )
    make = functools.partial(MemoryNorm, x.shape[1], x.shape[2], settings)
    # The published implementation creates the gate of a norm that does not use it.
    ignored = () if settings.gated else ("gate",)
    module = fill_layer(make, case.w, "memory_attention/layers/0/norm", ignored, norm_kind=kind)
    case.check(module(x), "eval")
    if "train" in case.o:
        y, running = module.with_statistics(x, module.running_rms[...])
        case.check(y, "train")
        case.check(running, "ema_after_one_train_step")
        y, running = module.with_statistics(0.5 * x, running)
        case.check(y, "train_step2")
        case.check(running, "ema_after_two_train_steps")
        module.running_rms[...] = running
        case.check(module(x), "eval_after_training")


WITHOUT_PARAMETERS = {"no_gate": "sum", "disable_residual": "replace"}


def gate_settings(case: GoldenCase, output: str) -> ResidualGateConfig:
    """Read the settings of one output from what the case says about it."""
    if output in WITHOUT_PARAMETERS:
        return ResidualGateConfig(kind=WITHOUT_PARAMETERS[output])
    (meaning,) = (each["meaning"] for each in case.facts["tensors"] if each["name"] == f"out.{output}")
    given = dict(part.split("=") for part in meaning.split(", "))
    return ResidualGateConfig(
        kind=case.config["gate_type"],
        activation="tanh" if given["use_tanh_gate"] == "True" else "sigmoid",
        per_slot=given["per_slot_gate"] == "True",
        status=given["slot_status_type"],
    )


@pytest.mark.parametrize("name", case_names("arch", "gate_"))
def test_residual_gates(name):
    case = GoldenCase("arch", name)
    old, new = case.i["old"], case.i["new"]
    assert case.o
    for output in case.o:
        settings = gate_settings(case, output)
        make = functools.partial(ResidualGate, old.shape[1], old.shape[2], settings)
        prefix = f"{output}."
        weights = {key.removeprefix(prefix): value for key, value in case.w.items() if key.startswith(prefix)}
        module = fill_layer(make, weights, "memory_attention/layers/0/gate")
        case.check(module(old, new), output)


@pytest.mark.parametrize("name", case_names("arch", "mlm_head"))
def test_masked_language_head(name):
    case = GoldenCase("arch", name)
    sizes = case.config["embed_dim"], case.config["vocab_size"]
    make = functools.partial(MaskedLanguageHead, *sizes)
    case.check(fill_layer(make, case.w, "masked_language_head")(case.i["x"]), "logits")
