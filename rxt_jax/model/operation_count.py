"""How many floating-point operations a model needs, counted from its shapes, and how many a device can do.

Two per weight and number that meet, plus attention scores and sums. What remat computes again, padding of expert tiles
and what a causal mask hides is not counted. Tools that count from the compiled program count the body of a loop once,
whatever its length. Everything that speaks of a share of a device's peak uses these numbers.
"""

import functools
from typing import NamedTuple

from flax import nnx

from rxt_jax.model import AnyModel, AnyModelConfig, BaselineConfig
from rxt_jax.model.fresh_parameters import abstract_model
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.parameters import flat_parameters

__all__ = ["InteractionOperations", "count_operations", "device_peak", "episode_operations", "forward_passes"]

_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
_GPU_PEAKS = {"H100": 989e12, "H200": 989e12}


class InteractionOperations(NamedTuple):
    """Operations of a forward pass over one interaction of one row."""

    encode: float
    """The encoder, all tokens."""
    write: float
    """The memory network: slots, and the keys and values of all tokens."""
    read: float
    """The decoder without its head: all tokens, and the keys and values of all slots."""
    head: float
    """The head on one scored token: the others are not projected."""
    masked_language_head: float
    """The masked-language head on one masked token."""


@functools.lru_cache(maxsize=64)
def count_operations(config: AnyModelConfig, length: int, slots: int | None = None) -> InteractionOperations:
    """Count the operations of a forward pass over an interaction of `length` tokens; nothing is allocated.

    `slots` that the decoder reads are those of the memory, unless something else stands in for it. A stateless
    baseline reads and projects, and does nothing else.
    """
    graphdef, params = abstract_model(config)
    model = nnx.merge(graphdef, params)
    memory_slots = 0 if isinstance(config, BaselineConfig) else config.num_slots
    slots = memory_slots if slots is None else slots
    if not isinstance(config, BaselineConfig):
        memory_slots //= config.memory_attention.layer.slot_groups  # an interaction is written into one group
    found = dict.fromkeys(InteractionOperations._fields, 0.0)
    for path, variable in flat_parameters(params).items():
        component, name = path.split("/")[0], path.split("/")[-1]
        if name not in ("kernel", "up", "down"):
            continue
        if component == "encoder":
            part, times = "encode", length * _share(model, path)
        elif component == "memory_attention":
            reads_tokens = "/attention/key/" in path or "/attention/value/" in path
            # The linear gate mixes slots with each other: its S × S weights meet one number per slot.
            part, times = "write", 1 if "/mixer/" in path else length if reads_tokens else memory_slots
        elif component == "masked_language_head":
            part, times = component, 1
        elif path.startswith("decoder/head/"):
            part, times = "head", 1
        elif component == "decoder":
            projects_slots = "/cross_attention/key/" in path or "/cross_attention/value/" in path
            part, times = "read", slots if projects_slots else length * _share(model, path)
        else:
            continue
        found[part] += 2.0 * variable.size * times
    if isinstance(config, BaselineConfig):
        if config.tie_embeddings:
            found["head"] += 2.0 * config.embed_dim * config.vocab_size
    else:
        layer = config.memory_layer()
        found["encode"] += sum(_attention(each.attention, length, length) for each in config.encoder_layers())
        found["write"] += config.num_layers * _attention(layer.attention, memory_slots, length)
        found["write"] += config.num_layers * _attention(layer.inner_attention, memory_slots, memory_slots)
    stateless = config.stateless_layers(final=False) + config.stateless_layers(final=True)
    for each in config.decoder_layers() + stateless:
        # A causal mask hides half of the scores.
        found["read"] += _attention(each.attention, length, length) / 2
        found["read"] += _attention(each.cross_attention, length, slots)
    return InteractionOperations(**found)


def episode_operations(
    config: AnyModelConfig,
    *,
    rows: int,
    interactions: int,
    length: int,
    scored_tokens: int,
    past: int = 0,
    writer_trains: bool = True,
) -> float:
    """Count the operations of a stage-4 update over whole episodes: I reads, I − 1 writes, each with its gradient.

    `scored_tokens` are those of all rows and interactions. The first `past` interactions are written without a
    gradient and not read. A writer that stands still (`writer_trains=False`) has no gradient anywhere.
    """
    one = count_operations(config, length)
    write, read = one.encode + one.write, interactions - past
    written = rows * (past + forward_passes(writer_trains) * (read - 1)) * write
    return written + forward_passes(True) * (rows * read * one.read + scored_tokens * one.head)


def forward_passes(trains: bool) -> float:
    """Count forward passes: the backward pass of a part that trains costs two, one that stands still has none."""
    return 3.0 if trains else 1.0


def device_peak(device_kind: str) -> float | None:
    """Look up a device's dense bfloat16 matrix products, operations per second; None where it is not known.

    `device_kind` is that of a `jax.Device`. The numbers are those of the makers' data sheets.
    """
    if device_kind in _PEAKS:
        return _PEAKS[device_kind]
    return next((peak for name, peak in _GPU_PEAKS.items() if name in device_kind), None)


def _attention(config: AttentionConfig | None, queries: int, keys: int) -> float:
    return 0.0 if config is None else 4.0 * queries * keys * config.output_heads * config.head_dim


def _share(model: AnyModel, path: str) -> float:
    """Tell which share of the weights at a path of encoder or decoder a token meets: k of E routed experts."""
    if "/experts/" not in path:
        return 1.0
    # Layers may have mixtures of their own: component/stack/segments/number/…
    component, stack, _, segment = path.split("/")[:4]
    feed_forward = getattr(getattr(model, component), stack).configs[int(segment)].feed_forward
    return feed_forward.experts_per_token / feed_forward.num_experts
