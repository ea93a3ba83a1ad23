"""Configurations of the published PyTorch implementation, read as ours.

What the published implementation accepts and ignores is ignored here as well; what it rejects or cannot run raises a
`ValueError` that names the field. Source: docs/method.md §20.3.
"""

from collections.abc import Mapping
from typing import Any, Literal

from rxt_jax.compatibility import Compatibility
from rxt_jax.model.baseline import BaselineConfig
from rxt_jax.model.config import DecoderConfig, EncoderConfig, MemoryConfig, ModelConfig
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig, MemoryVariant
from rxt_jax.nn.memory_norms import MemoryNormConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.norms import NormKind
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig

__all__ = [
    "attention_from_published",
    "baseline_from_published",
    "decoder_from_published",
    "encoder_from_published",
    "memory_from_published",
    "model_from_published",
]

Fields = Mapping[str, Any]

_VARIANTS: dict[str, MemoryVariant] = {
    "simple": "simple",
    "self": "self",
    "interlayer": "interlayer",
    "self-interlayer": "self_interlayer",
    "grouped-self-interlayer": "grouped_self_interlayer",
}
_ACTIVATIONS = {"swish": "silu"}
_HEAD_NORMS: dict[str, NormKind] = {"layer_norm": "layer", "rms_norm": "rms"}


def attention_from_published(
    kind: str,
    *,
    heads: int,
    groups: int | None,
    query_groups: int | None,
    embed_dim: int,
    head_dim: int | None = None,
    **options: Any,
) -> AttentionConfig:
    """Turn an attention type and its group counts into numbers of heads. Source: docs/method.md §5.1."""
    numbers = {
        "mha": (heads, heads),
        "mqa": (heads, 1),
        "gqa": (heads, groups),
        "sqa": (query_groups, groups),
    }
    if kind not in numbers:
        raise ValueError(f"attention type must be one of {', '.join(numbers)}, got {kind!r}.")
    queries, keys = numbers[kind]
    if queries is None or keys is None:
        raise ValueError(
            f"attention type {kind} needs its numbers of groups, got {groups} key/value groups and {query_groups} "
            f"query groups."
        )
    return AttentionConfig(
        num_query_heads=queries,
        num_kv_heads=keys,
        head_dim=head_dim or embed_dim // heads,
        **options,
    )


def encoder_from_published(fields: Fields) -> EncoderConfig:
    """Read an encoder's configuration. Cross-attention and stateless settings have no effect there."""
    own = _self_attentions(fields, fields.get("attn_layer_types"))
    return EncoderConfig(
        attention=own[0],
        layer_attentions=own if _is_hybrid(fields) else (),
        feed_forward=_feed_forward(fields),
        norm=_norm(fields),
        rotary_base=_rotary_base(fields),
    )


def decoder_from_published(fields: Fields) -> DecoderConfig:
    """Read a decoder's configuration."""
    gated = fields.get("use_gated_cross_attention")
    own = _self_attentions(fields, fields.get("attn_layer_types"))
    cross = attention_from_published(
        fields.get("cross_att_type", "sqa"),
        heads=fields.get("att_heads", 16),
        groups=_first(fields, "cross_att_groups", "att_groups", default=1),
        query_groups=_first(fields, "cross_att_query_groups", "att_query_groups"),
        embed_dim=fields.get("embed_dim", 512),
        **_attention_options(fields) | {"gated": fields.get("use_gated_attention", False) if gated is None else gated},
    )
    stateless = _stateless(fields, fields.get("stateless_layers_config"))
    final = _stateless(fields, fields.get("final_stateless_layers_config"))
    hybrid = _is_hybrid(fields)
    head_norm = _HEAD_NORMS[fields.get("head_norm_type", "layer_norm")]
    return DecoderConfig(
        attention=own[0],
        layer_attentions=own if hybrid else (),
        cross_attention=cross,
        feed_forward=_feed_forward(fields),
        stateless=stateless,
        stateless_attentions=_hybrid_types(fields, "stateless_attn_layer_types", stateless),
        final_stateless=final,
        final_stateless_attentions=_hybrid_types(fields, "final_stateless_attn_layer_types", final),
        head_norm=head_norm if fields.get("use_head_norm", False) else None,
        norm=_norm(fields),
        rotary_base=_rotary_base(fields),
    )


def memory_from_published(fields: Fields, variant: str) -> MemoryConfig:
    """Read a memory attention's configuration. The variant's name is taken at its word.

    Source: docs/method.md §7.5.
    """
    if variant not in _VARIANTS:
        raise ValueError(f"memory_attention_variant must be one of {', '.join(_VARIANTS)}, got {variant!r}.")
    prefix = {"simple": None, "self": "self_att"}.get(variant, "interlayer_att")
    gate = ResidualGateConfig(
        kind=fields.get("residual_gate_type", "static") if fields.get("use_gated_residual", False) else "sum",
        activation="tanh" if fields.get("use_tanh_residual_gate", True) else "sigmoid",
        per_slot=fields.get("residual_per_slot_gate", True),
        initial=fields.get("residual_gate_init", 3.0),
        status=fields.get("residual_gate_slot_status_type", "mean"),
    )
    plain = ResidualGateConfig()
    inner_gated = variant != "self" or fields.get("use_gate_for_self_attention", False)
    replaces = variant == "simple" and fields.get("disable_residual", False)
    layer = MemoryLayerConfig(
        variant=_VARIANTS[variant],
        attention=_memory_attention(fields, "att"),
        inner_attention=None if prefix is None else _memory_attention(fields, prefix),
        norm=MemoryNormConfig(
            kind=fields.get("norm_type", "classic-rms").replace("-", "_"),
            gate_init=fields.get("norm_init_gate", -2.0),
            per_channel_scale=fields.get("norm_per_dim_scale", False),
            decay=fields.get("norm_decay", 0.9),
        ),
        gate=ResidualGateConfig(kind="replace") if replaces else gate,
        inner_gate=gate if inner_gated else plain,
        mixture_gate=gate,
        rotary=RotaryConfig(base=float(fields.get("rope_base", 10000))),
    )
    grouped = variant == "grouped-self-interlayer"
    return MemoryConfig(layer=layer, num_groups=fields.get("num_groups", 1) if grouped else 1)


def model_from_published(
    decoder: Fields,
    encoder: Fields,
    memory: Fields,
    variant: str,
    *,
    initial_memory: Literal["standard", "normal", "learned"] = "standard",
    compatibility: Compatibility | None = None,
) -> ModelConfig:
    """Join the configurations of the three components; they must agree on the model's size."""
    for name in ("embed_dim", "num_layers"):
        sizes = {part.get(name, {"embed_dim": 512, "num_layers": 12}[name]) for part in (decoder, encoder, memory)}
        if len(sizes) > 1:
            raise ValueError(f"{name} must be equal in decoder, encoder and memory attention, got {sizes}.")
    return ModelConfig(
        vocab_size=decoder.get("vocab_size", 20000),
        embed_dim=decoder.get("embed_dim", 512),
        num_layers=decoder.get("num_layers", 12),
        num_slots=memory.get("stm_size", 1024),
        max_length=decoder.get("seq_len", 1024),
        encoder=encoder_from_published(encoder),
        decoder=decoder_from_published(decoder),
        memory_attention=memory_from_published(memory, variant),
        initial_memory=initial_memory,
        compatibility=compatibility or Compatibility(),
    )


def baseline_from_published(fields: Fields) -> BaselineConfig:
    """Read the configuration of the decoder-only baseline, whose fields have names of their own.

    Source: docs/method.md §20.3.
    """
    renamed = {
        "self_att_type": fields.get("att_type", "sqa"),
        "att_query_groups": fields.get("att_num_query_groups"),
        "use_moe": fields.get("use_moe_ff", False),
        "num_experts": fields.get("ff_num_experts", 1),
        "moe_top_k": fields.get("ff_moe_top_k", 1),
        "num_shared_experts": fields.get("ff_num_shared_experts", 0),
        "dense_layer_dim": fields.get("dense_ff_dim", 384),
    }
    own: dict[str, Any] = {"embed_dim": 128, "ff_dim": 384, "num_layers": 6, "vocab_size": 5000, "seq_len": 256}
    own |= dict(fields) | renamed
    head_norm = _HEAD_NORMS[own.get("head_norm_type", "layer_norm")]
    return BaselineConfig(
        vocab_size=own["vocab_size"],
        embed_dim=own["embed_dim"],
        num_layers=own["num_layers"],
        max_length=own["seq_len"],
        attention=_self_attentions(own, None)[0],
        feed_forward=_feed_forward(own),
        first_layers=_stateless(own, ["dense"] * own.get("num_initial_dense_layers", 0)),
        head_norm=head_norm if own.get("use_head_norm", False) else None,
        norm=_norm(own),
        tie_embeddings=own.get("tie_embeddings", False),
    )


def _first(fields: Fields, *names: str, default: Any = None) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), default)


def _norm(fields: Fields) -> NormKind:
    return "rms" if fields.get("use_rms_norm", True) else "layer"


def _rotary_base(fields: Fields) -> float | None:
    return None if fields.get("use_nope", False) else float(fields.get("rope_base", 10000))


def _is_hybrid(fields: Fields) -> bool:
    return fields.get("self_att_type", "sqa") == "hybrid"


def _attention_options(fields: Fields) -> dict[str, Any]:
    return {
        "gated": fields.get("use_gated_attention", False),
        "gate_activation": _activation(fields.get("gated_attention_activation", "sigmoid")),
        "gate_init": "published",
        "output_bias": fields.get("use_attention_output_bias", True),
        "dropout": fields.get("att_dropout", 0.0),
    }


def _activation(name: str) -> Any:
    return _ACTIVATIONS.get(name, name)


def _self_attentions(fields: Fields, types: Any) -> tuple[AttentionConfig, ...]:
    kinds = types if _is_hybrid(fields) else [fields.get("self_att_type", "sqa")]
    return tuple(
        attention_from_published(
            kind,
            heads=fields.get("att_heads", 16),
            groups=fields.get("att_groups", 1),
            query_groups=fields.get("att_query_groups"),
            embed_dim=fields.get("embed_dim", 512),
            **_attention_options(fields),
        )
        for kind in kinds
    )


def _hybrid_types(fields: Fields, name: str, layers: tuple) -> tuple[AttentionConfig, ...]:
    return _self_attentions(fields, fields[name]) if _is_hybrid(fields) and layers else ()


def _feed_forward(fields: Fields) -> FeedForwardConfig | MixtureConfig:
    dense = FeedForwardConfig(
        mlp_dim=fields.get("ff_dim", 1536),
        gated=fields.get("use_gated", True),
        activation=_activation(fields.get("ff_activation", "swish")),
        dropout=fields.get("ff_dropout", 0.0),
    )
    return _mixture(fields, dense) if fields.get("use_moe", False) else dense


def _mixture(fields: Fields, dense: FeedForwardConfig) -> MixtureConfig:
    stacked = fields.get("use_vectorized_moe", True)
    return MixtureConfig(
        num_experts=fields.get("num_experts", 1),
        experts_per_token=fields.get("moe_top_k", 1),
        mlp_dim=dense.mlp_dim,
        gated=dense.gated,
        activation=dense.activation,
        dropout=dense.dropout,
        # Experts in a list have biases of their own and ignore the newer fields (docs/method.md §20.2, rule 8).
        bias=fields.get("moe_bias_mode", "global") if stacked else "local",
        num_shared_experts=fields.get("num_shared_experts", 1),
        shared_mlp_dim=fields.get("shared_expert_dim") if stacked else None,
        shared_bias=fields.get("moe_shared_experts_bias_mode", "local") if stacked else "local",
        weigh_shared=fields.get("moe_use_weighted_shared_experts", False),
        router_dtype=fields.get("router_dtype", "float32") if fields.get("router_amp", False) else "float32",
        balance_loss="published",
    )


def _stateless(fields: Fields, kinds: Any) -> tuple[FeedForwardConfig | MixtureConfig, ...]:
    wide = dict(fields) | {"use_moe": False, "ff_dim": fields.get("dense_layer_dim", 1536)}
    choices = {"dense": _feed_forward(wide), "moe": _feed_forward(fields)}
    return tuple(choices[kind] for kind in kinds or ())


def _memory_attention(fields: Fields, prefix: str) -> AttentionConfig:
    return attention_from_published(
        fields.get(f"{prefix}_type", "sqa"),
        heads=fields.get("att_heads", 16),
        groups=fields.get(f"{prefix}_groups", 1),
        query_groups=fields.get(f"{prefix}_query_groups"),
        embed_dim=fields.get("embed_dim", 512),
        dropout=fields.get(f"{prefix}_dropout", 0.0),
    )
