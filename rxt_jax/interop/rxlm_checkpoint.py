"""Checkpoints of the published PyTorch implementation, read as models of ours.

A folder is a whole model (`config.json`, `model.safetensors`), or holds one folder per component.
Source: docs/method.md §20.2.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from safetensors import safe_open

from rxt_jax.compatibility import Compatibility
from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_infer import infer_component, infer_memory, infer_variant
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, load_weights
from rxt_jax.model.config import ModelConfig
from rxt_jax.model.masked_language_head import MaskedLanguageHead
from rxt_jax.model.reactive_transformer import ReactiveTransformer
from rxt_jax.paths import local_only

__all__ = ["RxlmFolder", "load_rxlm", "open_rxlm", "stored_memory"]

_WHY_LOCAL = "a published checkpoint is read tensor by tensor"
_COMPONENTS = ("decoder", "encoder", "memory_attention", "mlm_head")
_IGNORED = re.compile(
    r"(^|\.)rope\."  # derived tables
    r"|^encoder\.model\.(layers\.\d+\.(memory_cross_attention|norm2|stm_norm)\.|stm\.)"
    r"|^(decoder|memory_attention)\.model\.stm\.memory$"
    r"|^decoder\.model\.embedding\.weight$"
    r"|\.slot_status\."  # created even where gating is off
)


class RxlmFolder(NamedTuple):
    """What a folder holds: our config, tensors under merged names, and its own `config.json`."""

    config: ModelConfig
    weights: "TensorFiles"
    published_config: Mapping[str, Any]


class _Place(NamedTuple):
    """Where a tensor is stored."""

    file: Path
    name: str
    shape: tuple[int, ...]


class TensorFiles(Mapping[str, np.ndarray]):
    """Tensors of safetensors files by name, read when asked for; aliases in a file's metadata count.

    A file is opened anew for every tensor: what stays mapped would count as memory until the last one is read.
    """

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._permuted: dict[str, int] = {}

    def add(self, file: Path, prefix: str) -> None:
        """Add a file, its names behind `prefix`."""
        if not file.is_file():
            raise FileNotFoundError(f"{file.parent} has no {file.name}")
        with safe_open(file, framework="flax") as opened:
            names = list(opened.keys())
            stored = {name: _Place(file, name, tuple(opened.get_slice(name).get_shape())) for name in names}
            aliases = opened.metadata() or {}
        self._places |= {prefix + name: place for name, place in stored.items()}
        for alias, name in aliases.items():
            if name in stored and alias not in stored:
                self._places[prefix + alias] = stored[name]

    def rename(self, name: str, as_name: str) -> None:
        """Let a tensor count under another name as well."""
        self._places[as_name] = self._places[name]

    def permute_rows(self, name: str, head_dim: int) -> None:
        """Read a projection that was trained with the legacy rotary layout. Source: docs/method.md, eq. 12."""
        self._permuted[name] = head_dim

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._places[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        with safe_open(place.file, framework="flax") as opened:
            value = np.asarray(opened.get_tensor(place.name))
        if name in self._permuted:
            half = self._permuted[name] // 2
            value = value.reshape(-1, 2, half, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load_rxlm(
    path: str | Path | Sequence[str | Path],
    *,
    compatibility: Compatibility | None = None,
    variant: str | None = None,
) -> ReactiveTransformer:
    """Load a model saved by the published implementation, with its parameters in float32.

    `path` is the folder of a whole model, a folder of component folders, or these folders one by one.
    `variant` names the memory attention where an ungated checkpoint leaves it open (docs/method.md §20.2, rule 9).
    With `legacy_rotary_layout` the projections are permuted, so that the model runs in the current
    layout. A masked-language head that was not saved starts fresh. Missing, unexpected and misshapen
    tensors end in one error that lists them; `stored_memory` reads the memory in the checkpoint.
    """
    folder = open_rxlm(path, compatibility=compatibility, variant=variant)
    config, weights = folder.config, folder.weights
    prefixes = dict(COMPONENT_PREFIXES)
    has_head = any(name.startswith("mlm_head.") for name in weights)
    if not has_head:
        del prefixes["masked_language_head"]
    graphdef, params = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(config, rngs=nnx.Rngs(0))))
    params, _ = load_weights(params, config, weights, prefixes, ignored=_IGNORED.search)
    model = nnx.merge(graphdef, params)
    if not has_head:
        model.masked_language_head = MaskedLanguageHead(config.embed_dim, config.vocab_size, rngs=nnx.Rngs(0))
    return model


def stored_memory(path: str | Path | Sequence[str | Path]) -> np.ndarray | None:
    """Read the memory `[L B S D]` that a checkpoint carries: an arbitrary random state.

    Source: docs/method.md §20.2, rule 3.
    """
    weights = open_rxlm(path).weights
    names = [f"{part}.model.stm.memory" for part in ("memory_attention", "decoder", "encoder")]
    return next((np.asarray(weights[name], np.float32) for name in names if name in weights), None)


def open_rxlm(
    path: str | Path | Sequence[str | Path],
    *,
    compatibility: Compatibility | None = None,
    variant: str | None = None,
) -> RxlmFolder:
    """Read a checkpoint's configuration and the names of its tensors, no tensor yet."""
    compatibility = compatibility or Compatibility()
    weights, published_config = _open_files(path)
    names = set(weights)
    fields: dict[str, Any] = {}
    for part in ("decoder", "encoder"):
        own = {name.removeprefix(f"{part}.model."): name for name in names if name.startswith(f"{part}.model.")}
        fields[part] = infer_component(published_config[f"{part}_config"], own, weights.shape)
    memory_names = {name.removeprefix("memory_attention.model.") for name in names if name.startswith("memory_att")}
    fields["memory"] = infer_memory(published_config["memory_attention_config"], memory_names)
    chosen = variant or infer_variant(
        published_config.get("memory_attention_variant"),
        fields["memory"],
        memory_names,
        interlayer_is_self_interlayer=compatibility.interlayer_is_self_interlayer,
    )
    if compatibility.legacy_rotary_layout:
        _permute_legacy_rows(weights, fields)
    if "encoder.model.embedding.weight" not in names and "decoder.model.embedding.weight" in names:
        weights.rename("decoder.model.embedding.weight", "encoder.model.embedding.weight")
    config = model_from_published(
        fields["decoder"],
        fields["encoder"],
        fields["memory"],
        chosen,
        initial_memory="normal" if compatibility.small_initial_memory else "standard",
        compatibility=compatibility.without_legacy_layout(),
    )
    return RxlmFolder(config, weights, published_config)


def _open_files(path: str | Path | Sequence[str | Path]) -> tuple[TensorFiles, dict[str, Any]]:
    """Find the components; a split checkpoint gets the configuration that a merged one would have."""
    weights = TensorFiles()
    if isinstance(path, str | Path):
        whole = local_only(path, _WHY_LOCAL)
        if not whole.is_dir():
            raise FileNotFoundError(f"{whole} is no folder; expected config.json and model.safetensors in it")
        if "decoder_config" in (published_config := _read_config(whole)):
            weights.add(whole / "model.safetensors", "")
            if (whole / "mlm-head" / "model.safetensors").is_file():
                weights.add(whole / "mlm-head" / "model.safetensors", "mlm_head.")
            return weights, published_config
        folders = sorted(file.parent for file in whole.glob("*/config.json")) or [whole]
    else:
        folders = [local_only(each, _WHY_LOCAL) for each in path]
    published_config = {}
    for folder in folders:
        part = TensorFiles()
        part.add(folder / "model.safetensors", "")
        component = _component_of(set(part), folder)
        if f"{component}_config" in published_config:
            raise ValueError(f"{folder} is a second {component}; give one folder per component")
        published_config[f"{component}_config"] = _read_config(folder)
        weights.add(folder / "model.safetensors", "mlm_head." if component == "mlm_head" else f"{component}.")
    missing = [name for name in _COMPONENTS[:3] if f"{name}_config" not in published_config]
    if missing:
        raise ValueError(
            f"{path} lacks {' and '.join(missing)}; expected a whole model, or a folder each for decoder, encoder and "
            f"memory attention"
        )
    return weights, published_config


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: {error}") from error


def _component_of(names: set[str], folder: Path) -> str:
    """Tell components apart by what only they have."""
    if any(name.startswith("model.attention_layers.") for name in names):
        return "memory_attention"
    if "dense.weight" in names and "decoder.weight" in names:
        return "mlm_head"
    if "model.head.weight" in names:
        return "decoder"
    if "model.embedding.weight" in names:
        return "encoder"
    raise ValueError(f"{folder} holds none of {', '.join(_COMPONENTS)}: its tensors are {sorted(names)[:5]} …")


def _permute_legacy_rows(weights: TensorFiles, fields: Mapping[str, Mapping[str, Any]]) -> None:
    """Permute what is not rotated: keys of memory cross-attention, queries of memory attention."""
    sides = (
        ("decoder", re.compile(r"^decoder\.model\.layers\.\d+\.memory_cross_attention\.k_proj\.weight$")),
        ("memory", re.compile(r"^memory_attention\.model\.attention_layers\.\d+\.q_proj\.weight$")),
    )
    for part, pattern in sides:
        head_dim = fields[part].get("embed_dim", 512) // fields[part].get("att_heads", 16)
        for name in filter(pattern.match, weights):
            weights.permute_rows(name, head_dim)
