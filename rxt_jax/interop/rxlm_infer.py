"""What the tensors of a published checkpoint say about its configuration.

Old configurations lack fields whose defaults changed since, so the names decide wherever they can.
Source: docs/method.md §20.2, rules 6 and 9.
"""

import re
from collections.abc import Callable, Mapping, Set
from typing import Any

__all__ = ["infer_component", "infer_memory", "infer_variant"]

Fields = Mapping[str, Any]


def infer_component(fields: Fields, names: Mapping[str, str], shape: Callable[[str], tuple[int, ...]]) -> Fields:
    """Correct the configuration of an encoder or decoder.

    `names` maps a tensor's name inside its component to its name in the checkpoint, whose shape
    `shape` tells.
    """
    found: dict[str, Any] = {
        "use_gated_attention": _any(names, r"layers\.\d+\.attention\.gate_proj\.weight$"),
        "use_gated_cross_attention": _any(names, r"memory_cross_attention\.gate_proj\.weight$"),
        "use_attention_output_bias": _any(names, r"\.attention\.out_proj\.bias$"),
        "use_rms_norm": not _any(names, r"\.norm1\.bias$"),
        "use_moe": _any(names, r"^layers\.\d+\.ff\.router\."),
    }
    if "head.weight" in names:
        found["use_head_norm"] = "head_norm.weight" in names
        if found["use_head_norm"]:
            found["head_norm_type"] = "layer_norm" if "head_norm.bias" in names else "rms_norm"
    for stack in ("stateless", "final_stateless"):
        numbers = {int(match[1]) for name in names if (match := re.match(rf"{stack}_layers\.(\d+)\.", name))}
        found[f"{stack}_layers_config"] = [
            "moe" if f"{stack}_layers.{number}.ff.router.gate.weight" in names else "dense"
            for number in range(max(numbers, default=-1) + 1)
        ]
    gated = [name for name in names if re.search(r"\.ff\.fc1\.(linear\.)?weight$", name)]
    if gated:
        found["use_gated"] = ".linear." in gated[0]
    router = next((name for name in sorted(names) if name.endswith(".ff.router.gate.weight")), None)
    if router is not None:
        found |= _infer_mixture(router.removesuffix("router.gate.weight"), names, shape)
    return dict(fields) | found


def infer_memory(fields: Fields, names: Set[str]) -> Fields:
    """Correct the configuration of a memory attention."""
    gates = {name for name in names if re.match(r"residual_gate_layers\.\d+\.gate", name)}
    found: dict[str, Any] = {"use_gated_residual": bool(gates)}
    if any(name.endswith(".gate.weight") for name in gates):
        found["residual_gate_type"] = "linear"
    return dict(fields) | found


def infer_variant(
    requested: str | None, fields: Fields, names: Set[str], *, interlayer_is_self_interlayer: bool
) -> str:
    """Name the memory attention that the tensors belong to; where they leave it open, the requested one."""

    def has(layers: str) -> bool:
        return any(name.startswith(f"{layers}.") for name in names)

    if has("self_attention_layers"):
        return "self"
    if not has("mean_attention_layers"):
        return "simple"
    grouped = requested == "grouped-self-interlayer" or fields.get("num_groups", 1) > 1
    if has("interlayer_gate_layers"):
        return "grouped-self-interlayer" if grouped else "self-interlayer"
    if fields["use_gated_residual"]:
        return "interlayer"
    if grouped:
        return "grouped-self-interlayer"
    if interlayer_is_self_interlayer or requested == "self-interlayer":
        return "self-interlayer"
    return "interlayer"


def _any(names: Mapping[str, str], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)


def _infer_mixture(layer: str, names: Mapping[str, str], shape: Callable[[str], tuple[int, ...]]) -> dict[str, Any]:
    stacked = f"{layer}w1" in names

    def has(name: str) -> bool:
        return f"{layer}{name}" in names

    if has("shared_w1"):
        shared = shape(names[f"{layer}shared_w1"])[0]
    elif any(name.startswith(f"{layer}shared_expert.") for name in names):
        shared = 1
    else:
        shared = len({name.split(".")[4] for name in names if name.startswith(f"{layer}shared_experts.")})
    found: dict[str, Any] = {
        "use_vectorized_moe": stacked,
        "num_experts": shape(names[f"{layer}router.gate.weight"])[0],
        "num_shared_experts": shared,
    }
    if stacked:
        up, down = shape(names[f"{layer}w1"]), shape(names[f"{layer}w2"])
        found["use_gated"] = up[2] == 2 * down[1]
        found["moe_bias_mode"] = "global" if has("global_bias") else "local" if has("b1") else "off"
        local = has("shared_b1") or has("shared_expert.fc2.bias")
        found["moe_shared_experts_bias_mode"] = "global" if has("shared_experts_bias") else "local" if local else "off"
    else:
        found["use_gated"] = has("experts.0.fc1.linear.weight")
    return found
