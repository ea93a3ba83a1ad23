"""What an evaluation takes beside the parameters, from the compiled program: nothing is computed.

    python benchmarks/evaluation_memory.py --preset rxt_alpha_mini --conversations 64 --interactions 28

The scratch and the results of the program and the arrays that go into it exist together; parameters are counted apart.
With `--devices 8` conversations are split over so many simulated devices, and the numbers are those of one of them.
"""

import json
import math
import os
import time
from dataclasses import dataclass
from typing import Any

import tyro


@dataclass(frozen=True)
class Options:
    """Sizes. `new_tokens` are those of a generated answer; of a prompt as many as fit are read."""

    preset: str = "rxt_alpha_mini"
    conversations: int = 64
    interactions: int = 28
    new_tokens: int = 24
    tokens_per_call: int = 4096
    devices: int = 1


def measure(options: Options) -> dict[str, Any]:
    """Compile the evaluation of a batch and read its sizes, in MiB on one device."""
    import jax
    import numpy as np
    from flax import nnx

    from rxt_jax.evaluation.answering import AnswerRows, ReadAnswers
    from rxt_jax.evaluation.config import CONDITIONS, EvaluationConfig
    from rxt_jax.evaluation.groups import group_rows
    from rxt_jax.evaluation.walk import split_rows, walk
    from rxt_jax.model import ReactiveTransformer, presets
    from rxt_jax.nn.parameters import flat_parameters
    from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh, state_shardings
    from rxt_jax.types import EpisodeBatch

    model_config = presets.PRESETS[options.preset]()
    config = EvaluationConfig(
        batch_size=options.conversations,
        max_new_tokens=options.new_tokens,
        tokens_per_call=options.tokens_per_call,
        mesh=MeshConfig(data=options.devices),
    )
    length, turns = model_config.max_length, options.interactions
    chunks = split_rows(options.conversations, config, length, options.devices)
    rows, parts = chunks[0].shape[1], options.devices
    graphdef, params = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(model_config, rngs=nnx.Rngs(0))))

    def shaped(count: int) -> EpisodeBatch:
        ids = jax.ShapeDtypeStruct((turns, count, length), np.int32)
        mask = jax.ShapeDtypeStruct(ids.shape, np.bool_)
        return EpisodeBatch(ids, mask, mask, jax.ShapeDtypeStruct(ids.shape[:2], np.bool_))

    own = shaped(parts * rows)
    given = AnswerRows(own.ids, own.token_mask, own.loss_mask, jax.ShapeDtypeStruct(own.valid.shape, np.int32))
    groups = group_rows(np.ones(own.valid.shape, bool), parts, max(rows // len(CONDITIONS), 1))
    walked = parts * (rows + 1)
    inputs = (
        shaped(walked),
        given,
        jax.ShapeDtypeStruct(groups.shape, groups.dtype),
        jax.ShapeDtypeStruct((walked,), np.int32),
    )
    if parts > 1:
        mesh = make_mesh(config.mesh)
        places = (batch_shardings(each, mesh, axis) for each, axis in zip(inputs, (1, 1, 2, 0), strict=True))
        inputs = jax.tree.map(_placed, inputs, tuple(places))
        params = jax.tree.map(_placed, params, state_shardings(params, flat_parameters(params), mesh))
    read = ReadAnswers(width=length, max_new_tokens=options.new_tokens, end_id=3, pad_id=0)
    start = time.perf_counter()
    lowered = walk.lower(graphdef, params, *inputs, read=read, conditions=CONDITIONS, parts=parts)
    sizes = lowered.compile().memory_analysis()
    arrays = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    memory = 4 * model_config.num_layers * model_config.num_slots * model_config.embed_dim * options.conversations
    return {
        "conversations walked together on a device": rows + 1,
        "scratch": _mebibytes(sizes.temp_size_in_bytes),
        "results": _mebibytes(sizes.output_size_in_bytes),
        "batch": _mebibytes(
            sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(inputs)) / parts
        ),
        "parameters": _mebibytes(arrays),
        "all memories of the batch, [I L B S D]": _mebibytes(turns * memory),
        "logits of one interaction, [B T V]": _mebibytes(4 * options.conversations * length * model_config.vocab_size),
        "seconds to compile": round(time.perf_counter() - start),
    }


def _placed(shape: Any, sharding: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _mebibytes(count: float) -> int:
    return round(count / 2**20)


def main(options: Options) -> None:
    """Measure and print."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={options.devices}"
    print(json.dumps(measure(options), indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options))
