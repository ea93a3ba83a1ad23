"""Models of ours, written as checkpoints of the published PyTorch implementation.

Source: docs/method.md §20.2 and §20.3.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import exported_weights
from rxt_jax.model.config import DecoderConfig, EncoderConfig, ModelConfig
from rxt_jax.model.reactive_transformer import ReactiveTransformer
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.paths import as_path
from rxt_jax.weights import WEIGHTS_FILE, Tensor, write_tensors

__all__ = ["fields_from_model", "save_rxlm"]

_VARIANTS = {
    "simple": "simple",
    "self": "self",
    "interlayer": "interlayer",
    "self_interlayer": "self-interlayer",
    "grouped_self_interlayer": "grouped-self-interlayer",
}
_TOKEN_IDS = {
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "query_token_id": 5,
    "answer_token_id": 6,
    "think_token_id": 7,
    "tool_call_token_id": 8,
    "tool_use_token_id": 9,
    "internal_token_id": 10,
}


def save_rxlm(model: ReactiveTransformer, path: str | Path, *, memory: Any = None) -> None:
    """Write `config.json` and `model.safetensors` of a whole model, and `mlm-head/` beside them.

    `memory` `[L B S D]` is stored as the state that published checkpoints carry; without it, zeros.
    A model with parts that the published implementation does not have (a learned initial memory,
    learned gates, slot identities) is a `ValueError` that names the first of them.
    """
    path = as_path(path)
    config = model.config
    fields = fields_from_model(config)
    tensors = [Tensor(*each) for each in exported_weights(nnx.split(model)[1], config)]
    embedding = next(tensor for tensor in tensors if tensor.name == "encoder.model.embedding.weight")
    tensors.append(embedding._replace(name="decoder.model.embedding.weight"))
    shape = (config.num_layers, 1, config.num_slots, config.embed_dim)
    state = np.zeros(shape, np.float32) if memory is None else np.asarray(memory, np.float32)
    if state.ndim != 4 or (state.shape[0], *state.shape[2:]) != (shape[0], *shape[2:]):
        raise ValueError(f"memory must be [layers, batch, slots, width] like {shape}, got {state.shape}.")
    for part in ("decoder", "memory_attention"):
        tensors.append(Tensor(f"{part}.model.stm.memory", state.shape, lambda: state))
    head = [tensor for tensor in tensors if tensor.name.startswith("mlm_head.")]
    path.mkdir(parents=True, exist_ok=True)
    _write(path, fields, [tensor for tensor in tensors if tensor not in head])
    head_fields = {"embed_dim": config.embed_dim, "vocab_size": config.vocab_size}
    (path / "mlm-head").mkdir(exist_ok=True)
    named = [tensor._replace(name=tensor.name.removeprefix("mlm_head.")) for tensor in head]
    _write(path / "mlm-head", head_fields, named)


def fields_from_model(config: ModelConfig) -> dict[str, Any]:
    """Describe a model as the published `config.json` does; what cannot be said there is an error."""
    layer = config.memory_attention.layer
    variant = _VARIANTS[layer.variant]
    shared = {
        "num_layers": config.num_layers,
        "embed_dim": config.embed_dim,
        "seq_len": config.max_length,
        "stm_size": config.num_slots,
    }
    memory = shared | {
        "att_heads": config.embed_dim // layer.attention.head_dim,
        "norm_type": layer.norm.kind.replace("_", "-"),
        "norm_init_gate": layer.norm.gate_init,
        "norm_per_dim_scale": layer.norm.per_channel_scale,
        "norm_decay": layer.norm.decay,
        "use_gated_residual": layer.gate.kind not in ("sum", "replace"),
        "disable_residual": layer.gate.kind == "replace",
        "residual_gate_type": layer.gate.kind if layer.gate.kind not in ("sum", "replace") else "static",
        "use_tanh_residual_gate": layer.gate.activation == "tanh",
        "residual_per_slot_gate": layer.gate.per_slot,
        "residual_gate_init": layer.gate.initial,
        "residual_gate_slot_status_type": layer.gate.status,
        "use_gate_for_self_attention": layer.inner_gate == layer.gate,
        "rope_base": 10000 if layer.rotary is None else _whole(layer.rotary.base),
    }
    memory |= _memory_attention(layer.attention, "att")
    if layer.inner_attention is not None:
        memory |= _memory_attention(layer.inner_attention, "self_att" if variant == "self" else "interlayer_att")
    if variant == "grouped-self-interlayer":
        memory["num_groups"] = config.memory_attention.num_groups
    fields = {
        "decoder_config": shared | {"vocab_size": config.vocab_size} | _decoder(config.decoder, config.embed_dim),
        "encoder_config": shared | {"vocab_size": config.vocab_size} | _component(config.encoder, config.embed_dim),
        "memory_attention_config": memory,
        "memory_attention_variant": variant,
        "tokenizer": None,
        "tokenizer_config": _TOKEN_IDS,
    }
    _check(config, fields)
    return fields


def _check(config: ModelConfig, fields: dict[str, Any]) -> None:
    """Read the fields again: what comes out differently cannot be expressed."""
    again = model_from_published(
        fields["decoder_config"],
        fields["encoder_config"],
        fields["memory_attention_config"],
        fields["memory_attention_variant"],
    )
    # How a model is run and begun is ours to choose.
    ours = ("initial_memory_std", "embedding_std", "dtype", "scan_unroll", "compatibility", "max_length")
    again = replace(again, **{name: getattr(config, name) for name in ours})
    if config.initial_memory != "learned":
        again = replace(again, initial_memory=config.initial_memory)
    difference = _first_difference(config, again, "model")
    if difference is not None:
        raise ValueError(f"the published implementation cannot express {difference}")


def _first_difference(mine: Any, theirs: Any, place: str) -> str | None:
    if mine == theirs:
        return None
    if hasattr(mine, "__dataclass_fields__") and type(mine) is type(theirs):
        for name in mine.__dataclass_fields__:
            # Initialisation does not outlive training, and dropout is the caller's business.
            if name in ("gate_init", "dropout", "balance_loss"):
                continue
            found = _first_difference(getattr(mine, name), getattr(theirs, name), f"{place}.{name}")
            if found is not None:
                return found
        return None
    if isinstance(mine, tuple) and isinstance(theirs, tuple) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return next((found for n, (a, b) in pairs if (found := _first_difference(a, b, f"{place}[{n}]"))), None)
    return f"{place} = {mine!r} (the nearest is {theirs!r})"


def _decoder(config: DecoderConfig, embed_dim: int) -> dict[str, Any]:
    cross = config.cross_attention
    fields = _component(config, embed_dim) | {
        "cross_att_type": "sqa",
        "cross_att_groups": cross.num_kv_heads,
        "cross_att_query_groups": cross.num_query_heads,
        "use_gated_cross_attention": cross.gated,
        "use_head_norm": config.head_norm is not None,
        "head_norm_type": "rms_norm" if config.head_norm == "rms" else "layer_norm",
    }
    for name, layers, attentions in (
        ("stateless", config.stateless, config.stateless_attentions),
        ("final_stateless", config.final_stateless, config.final_stateless_attentions),
    ):
        fields[f"{name}_layers_config"] = ["moe" if isinstance(each, MixtureConfig) else "dense" for each in layers]
        if attentions:
            fields[f"{name}_attn_layer_types"] = [_kind(each, embed_dim) for each in attentions]
        for each in layers:
            if isinstance(each, FeedForwardConfig):
                fields["dense_layer_dim"] = each.mlp_dim
            elif isinstance(config.feed_forward, FeedForwardConfig):
                fields |= {key: value for key, value in _feed_forward(each).items() if key != "use_moe"}
    return fields


def _component(config: EncoderConfig | DecoderConfig, embed_dim: int) -> dict[str, Any]:
    attention = config.attention
    fields = {
        "att_heads": embed_dim // attention.head_dim,
        "self_att_type": "sqa",
        "att_groups": attention.num_kv_heads,
        "att_query_groups": attention.num_query_heads,
        "use_gated_attention": attention.gated,
        "gated_attention_activation": attention.gate_activation,
        "use_attention_output_bias": attention.output_bias,
        "att_dropout": attention.dropout,
        "use_rms_norm": config.norm == "rms",
        "use_nope": config.rotary_base is None,
    }
    if config.rotary_base is not None:
        fields["rope_base"] = _whole(config.rotary_base)
    if config.layer_attentions:
        fields["self_att_type"] = "hybrid"
        fields["attn_layer_types"] = [_kind(each, embed_dim) for each in config.layer_attentions]
        grouped = [each for each in config.layer_attentions if _kind(each, embed_dim) in ("gqa", "sqa")]
        for each in grouped:
            fields["att_groups"] = each.num_kv_heads
            if _kind(each, embed_dim) == "sqa":
                fields["att_query_groups"] = each.num_query_heads
    return fields | _feed_forward(config.feed_forward)


def _kind(attention: AttentionConfig, embed_dim: int) -> str:
    heads = embed_dim // attention.head_dim
    if attention.num_query_heads != heads:
        return "sqa"
    return {heads: "mha", 1: "mqa"}.get(attention.num_kv_heads, "gqa")


def _feed_forward(config: FeedForwardConfig | MixtureConfig) -> dict[str, Any]:
    fields = {
        "ff_dim": config.mlp_dim,
        "use_gated": config.gated,
        "ff_activation": "swish" if config.activation == "silu" else config.activation,
        "ff_dropout": config.dropout,
        "use_moe": isinstance(config, MixtureConfig),
    }
    if isinstance(config, MixtureConfig):
        fields |= {
            "use_vectorized_moe": True,
            "num_experts": config.num_experts,
            "moe_top_k": config.experts_per_token,
            "moe_bias_mode": config.bias,
            "num_shared_experts": config.num_shared_experts,
            "shared_expert_dim": config.shared_mlp_dim,
            "moe_shared_experts_bias_mode": config.shared_bias,
            "moe_use_weighted_shared_experts": config.weigh_shared,
            "router_amp": config.router_dtype != "float32",
            "router_dtype": config.router_dtype,
        }
    return fields


def _memory_attention(attention: AttentionConfig, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}_type": "sqa",
        f"{prefix}_groups": attention.num_kv_heads,
        f"{prefix}_query_groups": attention.num_query_heads,
        f"{prefix}_dropout": attention.dropout,
    }


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _write(folder: Path, fields: dict[str, Any], tensors: Sequence[Tensor]) -> None:
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"}, "float32")
