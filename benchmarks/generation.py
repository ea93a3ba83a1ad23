"""Speed of generation: tokens per second at batch 1 and 32, and the share of what memory bandwidth allows.

    python benchmarks/generation.py --device-name "two CPU cores"

At batch 1 every token has to read the weights it meets (those of the decoder; of a mixture the k chosen experts)
and the cached keys and values once. That many bytes over the bandwidth of a large copy is the least time.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from rxt_jax.cli.benchmark import best_time
from rxt_jax.model import ModelConfig, presets
from rxt_jax.model.fresh_parameters import build_model
from rxt_jax.model.generation import extend, prefill
from rxt_jax.model.generation_rules import make_rules
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.parameters import flat_parameters

NO_TOKEN = -1  # nothing ends a reply: all have the same length


@dataclass(frozen=True)
class Options:
    """What to measure."""

    preset: str = "rxt_alpha_micro"
    batches: tuple[int, ...] = (1, 32)
    prompt_tokens: int = 32
    new_tokens: int = 64
    repeats: int = 5
    scan_unroll: int | None = None
    device_name: str = ""


def bytes_per_token(model: Any, config: ModelConfig, width: int) -> float:
    """Count what one token of one row has to read."""
    total = 0.0
    for path, variable in flat_parameters(nnx.split(model)[1]).items():
        if not path.startswith("decoder/") or "cross_attention/key" in path or "cross_attention/value" in path:
            continue
        share = 1.0
        mixture = config.decoder.feed_forward
        if "/experts/" in path and isinstance(mixture, MixtureConfig):
            share = mixture.experts_per_token / mixture.num_experts
        total += 4.0 * variable.size * share
    own, cross = config.decoder.attention, config.decoder.cross_attention
    kept = width * own.num_kv_heads * own.head_dim + config.num_slots * cross.num_kv_heads * cross.head_dim
    return total + 2 * 4.0 * config.num_layers * kept


def bandwidth() -> float:
    """Measure the bytes per second that a large sum reads."""
    x = jnp.ones(1 << 26, jnp.float32)
    add = jax.jit(jnp.sum)
    return x.nbytes / best_time(lambda: add(x), 5)


def main(options: Options) -> None:
    """Measure and print."""
    config = presets.PRESETS[options.preset]()
    if options.scan_unroll is not None:
        config = replace(config, scan_unroll=options.scan_unroll)
    model = build_model(config, 0)
    graphdef, params = nnx.split(model)
    width = options.prompt_tokens + options.new_tokens
    limit = bandwidth() / bytes_per_token(model, config, width)
    print(f"{options.preset}, {options.device_name or jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print(f"bandwidth {bandwidth() / 1e9:.1f} GB/s, {bytes_per_token(model, config, width) / 1e6:.1f} MB per token")

    @functools.partial(jax.jit, static_argnums=3)
    def make(params: Any, memory: Any, ids: Any, count: int) -> Any:
        model = nnx.merge(graphdef, params)
        rules = make_rules(len(ids), jax.random.key(0))
        generation = prefill(model, memory, ids, jnp.ones(ids.shape, bool), rules, width + 1)
        return extend(model, generation, count, end_id=NO_TOKEN)[1].ids

    for batch in options.batches:
        ids = jnp.asarray(np.random.default_rng(0).integers(11, config.vocab_size, (batch, options.prompt_tokens)))
        memory = model.initial_memory(batch, jax.random.key(0))
        # The prefill takes the same time in both: the difference is that of the tokens alone.
        seconds = best_time(lambda: make(params, memory, ids, options.new_tokens), options.repeats)  # noqa: B023
        seconds -= best_time(lambda: make(params, memory, ids, 1), options.repeats)  # noqa: B023
        speed = batch * (options.new_tokens - 1) / seconds
        share = f", {100 * speed / limit:.0f} % of the bandwidth limit of {limit:.0f}" if batch == 1 else ""
        print(f"batch {batch}: {speed:,.0f} tokens/s{share}")


if __name__ == "__main__":
    main(tyro.cli(Options))
