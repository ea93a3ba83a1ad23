"""Parameters under the names of the published PyTorch implementation, and back.

Two rules cover every tensor: a Linear's `[out, in]` is transposed, everything else keeps its order;
both are then reshaped, because our axes are finer (heads, halves of a gated product). Layers are
stacked. Source: architecture spec §18.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = ["COMPONENT_PREFIXES", "load_weights", "reference_names", "stack_listed_experts"]

COMPONENT_PREFIXES = {
    "embedding": "encoder.model.embedding",
    "encoder": "encoder.model",
    "decoder": "decoder.model",
    "memory_attention": "memory_attention.model",
    "masked_language_head": "mlm_head",
}
"""Our component → prefix of its names in a merged checkpoint."""

_RULES: tuple[tuple[str, str], ...] = (
    # stacks of layers
    (r"^(stateless|final)\.(\d+)\.", r"\1_LAYERS.\2."),
    (r"^stateless_LAYERS", "stateless_layers"),
    (r"^final_LAYERS", "final_stateless_layers"),
    # transformer layers
    (r"\.cross_attention_memory_norm\.", ".stm_norm."),
    (r"\.cross_attention_norm\.", ".norm2."),
    (r"\.cross_attention\.", ".memory_cross_attention."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.feed_forward_norm\.", ".norm3."),
    (r"\.feed_forward\.router\.", ".ff.router.gate."),
    (r"\.feed_forward\.experts\.up_bias$", ".ff.b1"),
    (r"\.feed_forward\.experts\.down_bias$", ".ff.b2"),
    (r"\.feed_forward\.experts\.up$", ".ff.w1"),
    (r"\.feed_forward\.experts\.down$", ".ff.w2"),
    (r"\.feed_forward\.bias$", ".ff.global_bias"),
    (r"\.feed_forward\.shared_gate\.", ".ff.shared_expert_gate."),
    (r"\.feed_forward\.shared_bias$", ".ff.shared_experts_bias"),
    (r"\.feed_forward\.shared\.up_bias$", ".ff.shared_b1"),
    (r"\.feed_forward\.shared\.down_bias$", ".ff.shared_b2"),
    (r"\.feed_forward\.shared\.up$", ".ff.shared_w1"),
    (r"\.feed_forward\.shared\.down$", ".ff.shared_w2"),
    (r"\.feed_forward\.shared_expert\.up\.", ".ff.shared_expert.UP."),
    (r"\.feed_forward\.shared_expert\.down\.", ".ff.shared_expert.fc2."),
    (r"\.feed_forward\.up\.", ".ff.UP."),
    (r"\.feed_forward\.down\.", ".ff.fc2."),
    # attention
    (r"attention(_layers\.\d+)?\.(query|key|value|gate)_norm\.", r"attention\1.\2_HEADNORM."),
    (r"query_HEADNORM", "q_norm"),
    (r"key_HEADNORM", "k_norm"),
    (r"attention\.query\.", "attention.q_proj."),
    (r"attention\.key\.", "attention.k_proj."),
    (r"attention\.value\.", "attention.v_proj."),
    (r"attention\.gate\.", "attention.gate_proj."),
    (r"attention\.output\.", "attention.out_proj."),
)

_MEMORY_RULES: tuple[tuple[str, str], ...] = (
    (r"^layers\.(\d+)\.inner_attention\.", r"INNER_attention_layers.\1."),
    (r"^layers\.(\d+)\.inner_norm\.", r"INNER_memory_norm_layers.\1."),
    (r"^layers\.(\d+)\.inner_gate\.", r"INNER_residual_gate_layers.\1."),
    (r"^layers\.(\d+)\.mixture_gate\.", r"interlayer_gate_layers.\1."),
    (r"^layers\.(\d+)\.attention\.", r"attention_layers.\1."),
    (r"^layers\.(\d+)\.norm\.", r"memory_norm_layers.\1."),
    (r"^layers\.(\d+)\.input_norm\.", r"memory_input_norm_layers.\1."),
    (r"^layers\.(\d+)\.gate\.", r"residual_gate_layers.\1."),
    (r"^mean_norm\.", "mean_stm_norm."),
    (r"(attention_layers\.\d+)\.query\.", r"\1.q_proj."),
    (r"(attention_layers\.\d+)\.key\.", r"\1.k_proj."),
    (r"(attention_layers\.\d+)\.value\.", r"\1.v_proj."),
    (r"(attention_layers\.\d+)\.output\.", r"\1.out_proj."),
    (r"(gate_layers\.\d+)\.weight$", r"\1.gate"),
    (r"(gate_layers\.\d+)\.mixer\.", r"\1.gate."),
    (r"(gate_layers\.\d+)\.status\.", r"\1.slot_status."),
    (r"\.running_rms$", ".ema_rms"),
    (r"\.norm_scale$", ".norm.weight"),
)

_HEAD_RULES: tuple[tuple[str, str], ...] = (
    (r"^norm\.", "layer_norm."),
    (r"^head\.", "decoder."),
)


def reference_names(path: str, *, gated: bool, norm_kind: str, inner: str) -> str:
    """Translate the path of a parameter inside its component, `layers.0.attention.query.kernel`.

    `gated` says how the first feed-forward product is called, `norm_kind` and `inner` ("self" or
    "mean") how a memory network calls its norms and its inner attention.
    """
    component, _, name = path.partition("/")
    name = name.replace("/", ".")
    if component == "embedding":
        return "weight"
    if component == "masked_language_head":
        rules = _HEAD_RULES
    elif component == "memory_attention":
        rules = _MEMORY_RULES
    else:
        rules = _RULES
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    name = name.replace(".UP.", ".fc1.linear." if gated else ".fc1.")
    name = name.replace("INNER_", f"{inner}_")
    memory_norm = "memory_norm_layers" in name or name.startswith("mean_stm_norm")
    if memory_norm and norm_kind == "layer":
        name = re.sub(r"\.bias$", ".norm.bias", name)
    if not (memory_norm and norm_kind != "classic_rms"):
        name = re.sub(r"\.scale$", ".weight", name)
    return re.sub(r"\.kernel$", ".weight", name)


def load_weights(
    params: nnx.State,
    config: Any,
    weights: Mapping[str, np.ndarray],
    prefixes: Mapping[str, str] = COMPONENT_PREFIXES,
) -> tuple[nnx.State, list[str]]:
    """Fill the components named in `prefixes`; return the parameters and the names left unused.

    `config` is the `ModelConfig` of the parameters. A missing or misshapen tensor is an error that
    names it.
    """
    weights = stack_listed_experts(weights)
    unused = set(weights)
    filled = []
    for path, variable in nnx.to_flat_state(params):
        parts = [str(part) for part in path]
        if parts[0] not in prefixes:
            filled.append((path, variable))
            continue
        names = _names_of(parts, variable, config, prefixes[parts[0]])
        missing = [name for name in names if name not in weights]
        if missing:
            raise ValueError(f"the checkpoint has no {missing[0]} for {'/'.join(parts)}; is it of another config?")
        unused -= set(names)
        shape = variable.shape if len(names) == 1 and "segments" not in parts else variable.shape[1:]
        values = [_from_reference(weights[name], parts, shape, name) for name in names]
        value = np.stack(values) if "segments" in parts else values[0]
        filled.append((path, variable.replace(jnp.asarray(value))))
    return nnx.from_flat_state(filled), sorted(unused)


def stack_listed_experts(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn experts that are modules of a list into stacked tensors. Source: spec §10.4."""
    result, listed = {}, {}
    for name, value in weights.items():
        match = re.match(r"(.*?)(shared_)?experts\.(\d+)\.(fc1|fc2)(?:\.linear)?\.(weight|bias)$", name)
        if match is None:
            result[name] = value
            continue
        prefix, shared, number, product, kind = match.groups()
        letter = {"weight": "w", "bias": "b"}[kind] + product[-1]
        key = f"{prefix}{shared or ''}{letter}"
        listed.setdefault(key, {})[int(number)] = value.T if kind == "weight" else value
    for key, values in listed.items():
        result[key] = np.stack([values[number] for number in sorted(values)])
    # A single shared expert is an ordinary module in the newer layout.
    for key in [key for key in result if key.endswith("shared_w1") and len(result[key]) == 1]:
        prefix = key.removesuffix("shared_w1")
        gated = result[key].shape[2] == 2 * result[f"{prefix}shared_w2"].shape[1]
        for letter, product in (("1", "fc1.linear" if gated else "fc1"), ("2", "fc2")):
            module = f"{prefix}shared_expert.{product}"
            result[f"{module}.weight"] = result.pop(f"{prefix}shared_w{letter}")[0].T
            result[f"{module}.bias"] = result.pop(f"{prefix}shared_b{letter}")[0]
    return result


def _names_of(parts: list[str], variable: Any, config: Any, prefix: str) -> list[str]:
    """List the reference names of a parameter: one, or one per layer of its segment."""
    memory = config.memory_attention.layer
    part = getattr(config, parts[0], None)
    facts = {
        "norm_kind": memory.norm.kind,
        "inner": "self" if memory.variant == "self" else "mean",
        "gated": getattr(getattr(part, "feed_forward", None), "gated", True),
    }
    if "segments" not in parts:
        return [f"{prefix}.{reference_names('/'.join(parts), **facts)}".lstrip(".")]
    at = parts.index("segments")
    stack, number = parts[1:at], int(parts[at + 1])
    start = _segment_start(config, parts[0], stack[0], number)
    return [
        f"{prefix}." + reference_names("/".join([parts[0], *stack, str(start + i), *parts[at + 2 :]]), **facts)
        for i in range(variable.shape[0])
    ]


def _segment_start(config: Any, component: str, stack: str, number: int) -> int:
    """Count the layers before a segment of equal ones."""
    if component == "memory_attention":
        return 0
    if component == "encoder":
        layers = config.encoder_layers()
    elif stack == "layers":
        layers = config.decoder_layers()
    else:
        layers = config.stateless_layers(final=stack == "final")
    counts = [len(list(run)) for _, run in itertools.groupby(layers)]
    return sum(counts[:number])


def _from_reference(value: np.ndarray, parts: list[str], shape: tuple[int, ...], name: str) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if parts[-1] == "kernel":
        value = value.T
    if value.size != np.prod(shape, dtype=int):
        raise ValueError(f"{name} must have {shape} elements as {'/'.join(parts)}, got {value.shape}.")
    return value.reshape(shape)
