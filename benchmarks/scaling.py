"""What the train step of a stage asks of each device of a mesh, from the compiled program: nothing is computed.

    python benchmarks/scaling.py --stage memory_aware --data 8
    python benchmarks/scaling.py --stage memory_aware --dense --fsdp 8

The mesh is one of simulated devices. Operations of matrix products and collectives are counted as often as they run;
`counted_once` is XLA's own count, which takes every loop's body once. Rows are those of a device, so that a mesh has the
same work per device as one device. The same file measures an earlier version: PYTHONPATH says which package is imported.
"""

import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import tyro

MIB = 2.0**20


@dataclass(frozen=True)
class Options:
    """A stage, a model and a mesh."""

    stage: Literal["memory_aware", "joint_pretraining", "direct_memory_preference"] = "memory_aware"
    preset: str = "rxt_alpha_micro"
    layers: int | None = 2
    """Layers with memory in place of the preset's; None = the preset's own."""
    dense: bool = False
    """A dense layer as wide as the experts that a token goes to, in place of a mixture."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1
    rows: int = 4
    """Conversations, or rows, of one device."""
    interactions: int = 4
    length: int = 256
    optimizer: Literal["adamw", "muon"] = "adamw"
    changes: str = "{}"
    """JSON of further fields of the stage, such as `{"remat": "none"}`."""
    optimizer_changes: str = "{}"
    """JSON of further fields of the optimizer."""
    model_changes: str = "{}"
    """JSON of further fields of the model."""


def main(options: Options) -> dict[str, Any]:
    """Compile and count, for one device."""
    devices = options.data * options.fsdp * options.tensor * options.expert
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Machine code of lower quality compiles sooner; the program that is counted is the same.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{flags} --xla_llvm_disable_expensive_passes=true {os.environ.get('XLA_FLAGS', '')}"
    import jax
    from flax import nnx

    from rxt_jax.model import make_model
    from rxt_jax.nn.parameters import flat_parameters
    from rxt_jax.scaling import collectives_of, product_operations, total_by_kind
    from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh
    from rxt_jax.stages import DirectMemoryPreference, JointPretraining, MemoryAware
    from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
    from rxt_jax.train.state import abstract_state
    from rxt_jax.train.step import make_train_step

    kinds = {each.kind: each for each in (DirectMemoryPreference, JointPretraining, MemoryAware)}
    stage = kinds[options.stage](**json.loads(options.changes))
    config = replace(_model(options), **json.loads(options.model_changes))
    axes = {name: getattr(options, name) for name in ("data", "fsdp", "tensor", "expert")}
    mesh = make_mesh(MeshConfig(**axes))
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))
    optimizer_config = OptimizerConfig(name=options.optimizer, **json.loads(options.optimizer_changes))
    optimizer = make_optimizer(optimizer_config, params, total_updates=1000, trainable=stage.trainable)
    state = abstract_state(params, optimizer, stage, mesh, replicate_indivisible=("kv_heads", "experts"))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(graphdef, stage, optimizer, seed=0, state_shardings=shardings)
    parts = options.data * options.fsdp * (options.expert if "expert" in _batch_axes() else 1)
    batch = _batch(options, options.rows * parts)
    places = batch_shardings(batch, mesh, stage.batch_axis)
    batch = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), batch, places
    )
    began = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    seconds = time.perf_counter() - began
    text, memory = compiled.as_text(), compiled.memory_analysis()
    kinds_found = total_by_kind(collectives_of(text))
    sizes = [math.prod(variable.shape) for variable in flat_parameters(params).values()]
    return {
        "options": {key: value for key, value in dataclasses.asdict(options).items() if value is not None},
        "parameters_mib": round(4 * sum(sizes) / MIB, 1),
        "product_gflop": round(product_operations(text) / 1e9, 3),
        "counted_once_gflop": round(compiled.cost_analysis()["flops"] / 1e9, 3),
        "scratch_mib": round(memory.temp_size_in_bytes / MIB, 1),
        "state_mib": round(memory.argument_size_in_bytes / MIB, 1),
        "collectives": {
            kind: {"instructions": total.instructions, "executed": total.times, "mib": round(total.bytes / MIB, 2)}
            for kind, total in kinds_found.items()
        },
        "collective_mib": round(sum(total.bytes for total in kinds_found.values()) / MIB, 2),
        "compile_seconds": round(seconds, 1),
    }


def _batch_axes() -> tuple[str, ...]:
    import rxt_jax.sharding

    return getattr(rxt_jax.sharding, "BATCH_AXES", ("data", "fsdp"))


def _model(options: Options) -> Any:
    from rxt_jax.model import presets
    from rxt_jax.nn.feed_forward import FeedForwardConfig

    config = replace(presets.PRESETS[options.preset](), dtype=options.dtype, max_length=options.length)
    if options.layers is not None:
        config = replace(config, num_layers=options.layers)
    if options.dense:
        mixture = config.decoder.feed_forward
        dense = FeedForwardConfig(mlp_dim=mixture.mlp_dim * mixture.experts_per_token)
        layers = {name: (dense,) * len(getattr(config.decoder, name)) for name in ("stateless", "final_stateless")}
        config = replace(config, decoder=replace(config.decoder, feed_forward=dense, **layers))
    return config


def _batch(options: Options, rows: int) -> Any:
    import jax
    import numpy as np

    from rxt_jax.types import EpisodeBatch, PreferenceBatch, RowBatch

    def of(*shape: int, dtype: Any = np.bool_) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    count, length = options.interactions, options.length
    if options.stage == "joint_pretraining":
        ids, mask = of(rows, length, dtype=np.int32), of(rows, length)
        return RowBatch(ids, mask, mask, mask, None, ids)
    ids, mask = of(count, rows, length, dtype=np.int32), of(count, rows, length)
    episodes = EpisodeBatch(ids, mask, mask, of(count, rows))
    return PreferenceBatch(episodes, episodes, episodes) if options.stage == "direct_memory_preference" else episodes


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Options)), indent=1))
