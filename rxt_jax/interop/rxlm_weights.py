"""Parameters under the names of the published PyTorch implementation, and back.

Two rules cover every tensor: a Linear's `[out, in]` is transposed, everything else keeps its order;
both are then reshaped, because our axes are finer (heads, halves of a gated product). Layers are
stacked. Source: docs/method.md §20.2.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

__all__ = [
    "BASELINE_PREFIXES",
    "COMPONENT_PREFIXES",
    "exported_weights",
    "load_weights",
    "published_names",
    "published_shape",
    "stack_listed_experts",
]

COMPONENT_PREFIXES = {
    "embedding": "encoder.model.embedding",
    "encoder": "encoder.model",
    "decoder": "decoder.model",
    "memory_attention": "memory_attention.model",
    "masked_language_head": "mlm_head",
}
"""Our component → prefix of its names in a merged checkpoint."""

BASELINE_PREFIXES = {"embedding": "model.embedding", "decoder": "model"}
"""The same for the decoder-only baseline."""

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


def published_names(path: str, *, gated: bool, norm_kind: str, inner: str) -> str:
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
    ignored: Callable[[str], Any] | None = None,
) -> tuple[nnx.State, list[str]]:
    """Fill the components named in `prefixes`; return the parameters and the names left unused.

    `config` is the `ModelConfig` of the parameters. Missing and misshapen tensors end in one error
    that lists all of them; with `ignored`, so does any unused one whose name it does not accept.
    """
    weights = stack_listed_experts(weights)
    unused = set(weights)
    filled, faults = [], []
    for path, variable in nnx.to_flat_state(params):
        parts = [str(part) for part in path]
        if parts[0] not in prefixes:
            filled.append((path, variable))
            continue
        names = _names_of(parts, variable, config, prefixes[parts[0]])
        shape = variable.shape[1:] if "segments" in parts else variable.shape
        present = [name for name in names if name in weights]
        faults += [f"missing: {name} {published_shape(parts, shape)}" for name in names if name not in weights]
        unused -= set(present)
        value = _empty_for_device(variable.shape)
        for number, name in enumerate(names):
            if name not in weights:
                continue
            tensor = np.asarray(weights[name])
            if tensor.size != np.prod(shape, dtype=int):
                faults.append(f"shape: {name} {tensor.shape}, expected {published_shape(parts, shape)}")
                continue
            tensor = (tensor.T if parts[-1] == "kernel" else tensor).reshape(shape)
            if "segments" in parts:
                value[number] = tensor
            else:
                value[...] = tensor
        filled.append((path, variable.replace(jax.device_put(value, may_alias=True))))
    if ignored is not None:
        faults += [f"unexpected: {name}" for name in sorted(unused) if not ignored(name)]
    if faults:
        raise ValueError("the tensors do not fit the configuration:\n  " + "\n  ".join(faults))
    return nnx.from_flat_state(filled), sorted(unused)


def exported_weights(
    params: nnx.State, config: Any, prefixes: Mapping[str, str] = COMPONENT_PREFIXES
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """Give every tensor's published name, its shape, and a function that makes it: one copy at a time is enough."""

    def make(variable: Any, number: int | None, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
        one = np.asarray(variable[...])  # on a CPU no copy
        one = one if number is None else one[number]
        one = one.reshape(shape[::-1]).T if transposed else one.reshape(shape)
        return np.ascontiguousarray(one)

    for path, variable in nnx.to_flat_state(params):
        parts = [str(part) for part in path]
        if parts[0] not in prefixes:
            continue
        stacked = "segments" in parts
        shape = published_shape(parts, variable.shape[1:] if stacked else variable.shape)
        for number, name in enumerate(_names_of(parts, variable, config, prefixes[parts[0]])):
            layer = number if stacked else None
            yield name, shape, partial(make, variable, layer, shape, parts[-1] == "kernel")


def _empty_for_device(shape: tuple[int, ...]) -> np.ndarray:
    """Make room that a CPU device takes over as it is: a large parameter never exists twice."""
    alignment = 64  # what XLA wants
    size = math.prod(shape) * 4
    room = np.empty(size + alignment, np.uint8)
    start = -room.ctypes.data % alignment
    return room[start : start + size].view(np.float32).reshape(shape)


def published_shape(parts: list[str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Say how a parameter of this shape is published: `[out, in]` for a kernel, finer axes joined."""
    if parts[-1] == "kernel":
        # Only the output of attention has two input axes: heads and their width.
        inputs = 2 if parts[-2] == "output" else 1
        return (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    if parts[-1] == "bias" and len(shape) > 1:
        return (math.prod(shape),)
    if parts[-2:] in (["experts", "up"], ["shared", "up"]):
        return (*shape[:2], math.prod(shape[2:]))
    if parts[-2:] in (["experts", "up_bias"], ["shared", "up_bias"]):
        return (*shape[:1], math.prod(shape[1:]))
    return tuple(shape)


def stack_listed_experts(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Turn experts that are modules of a list into stacked tensors. Source: docs/method.md §20.2, rule 8."""
    if not any(re.search(r"experts\.\d+\.fc1", name) for name in weights):
        return weights
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
    """List the published names of a parameter: one, or one per layer of its segment."""
    memory = getattr(config, "memory_attention", None)
    part = getattr(config, parts[0], None)
    facts = {
        "norm_kind": "classic_rms" if memory is None else memory.layer.norm.kind,
        "inner": "self" if memory is not None and memory.layer.variant == "self" else "mean",
        "gated": getattr(getattr(part, "feed_forward", None), "gated", True),
    }

    def name_of(path: list[str]) -> str:
        name = f"{prefix}.{published_names('/'.join(path), **facts)}".lstrip(".")
        if memory is None:  # the baseline has one stack, and no norm for memory between its two
            name = name.replace(".stateless_layers.", ".layers.").replace(".norm3.", ".norm2.")
        return name

    if "segments" not in parts:
        return [name_of(parts)]
    at = parts.index("segments")
    stack, number = parts[1:at], int(parts[at + 1])
    start = _segment_start(config, parts[0], stack[0], number)
    return [name_of([parts[0], *stack, str(start + i), *parts[at + 2 :]]) for i in range(variable.shape[0])]


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
