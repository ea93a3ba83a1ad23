"""Attention implementations of a device against each other: time with and without gradient, and how far from float32.

    python benchmarks/attention_kernels.py --rows 16 --length 1024

Time is the best of several calls; "error" is that of the values, ‖out − ref‖ / ‖ref‖, against `einsum` in float32 with
exact products. What an implementation cannot do here is said; `splash` is for TPUs.
"""

from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import tyro

from rxt_jax.cli.benchmark import best_time
from rxt_jax.ops.attention import AttentionImplementation, AttentionMask, attend

CALLS = 10  # in one program, so that starting it does not count


@dataclass(frozen=True)
class Options:
    """Shapes of queries, keys and values, bfloat16."""

    rows: int = 16
    length: int = 1024
    """Tokens, queries and keys alike."""
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 128
    repeats: int = 10


def main(options: Options) -> None:
    """Measure every implementation with every mask and print a table."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (options.rows, options.length, options.heads, options.head_dim)
    query, slope = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys[:2])
    kept = (options.rows, options.length, options.kv_heads, options.head_dim)
    key, value = (jax.random.normal(each, kept, jnp.bfloat16) for each in keys[2:])
    real = jnp.arange(options.length)[None] < jnp.linspace(options.length // 2, options.length, options.rows)[:, None]
    masks = {
        "none": AttentionMask(),
        "causal": AttentionMask(causal=True),
        "causal, half to all keys real": AttentionMask(keys=real, causal=True),
    }
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {shape} over {options.kv_heads} key heads, bfloat16")
    print("| mask | implementation | forward, ms | with gradient, ms | TFLOP/s with gradient | error |")
    print("|---|---|---|---|---|---|")
    for name, mask in masks.items():
        with jax.default_matmul_precision("highest"):
            exact = attend(*(each.astype(jnp.float32) for each in (query, key, value)), mask, implementation="einsum")
        for implementation in get_args(AttentionImplementation):
            if implementation == "splash" and jax.default_backend() != "tpu":
                continue  # it would be interpreted
            try:
                row = _measure(options, implementation, mask, (query, key, value), slope, exact)
            except Exception as error:  # whatever a kernel of another device says
                row = f"no: {str(error).splitlines()[0][:80]} | | |"
            print(f"| {name} | `{implementation}` | {row} |")


def _measure(options: Options, implementation: Any, mask: AttentionMask, inputs: Any, slope: Any, exact: Any) -> str:
    def forward(query: Any, key: Any, value: Any) -> Any:
        return attend(query, key, value, mask, implementation=implementation)

    def again(inputs: Any, make: Any) -> Any:
        # Each call reads what the one before made, so that none can be left out.
        return jax.lax.fori_loop(0, CALLS, lambda _, carry: jax.tree.map(_mix, carry, make(carry)), inputs)

    def only(carry: Any) -> Any:
        made = forward(*carry)
        return made, carry[1], carry[2]

    def with_gradient(carry: Any) -> Any:
        return jax.vjp(forward, *carry)[1](slope)

    made = jax.jit(forward)(*inputs).astype(jnp.float32)
    error = float(jnp.linalg.norm(made - exact) / jnp.linalg.norm(exact))
    seconds = []
    for make in (only, with_gradient):
        call = jax.jit(lambda inputs, make=make: again(inputs, make))
        seconds.append(best_time(lambda call=call: call(inputs), options.repeats) / CALLS)
    # With its gradient: two products forward, five backward, of which one computes the scores again.
    operations = 7 * 2 * options.rows * options.length**2 * options.heads * options.head_dim
    operations /= 2 if mask.causal else 1
    columns = (f"{1e3 * seconds[0]:.2f}", f"{1e3 * seconds[1]:.2f}", f"{operations / seconds[1] / 1e12:.0f}")
    return " | ".join((*columns, f"{error:.1e}"))


def _mix(old: Any, new: Any) -> Any:
    return old * 0.5 + new.astype(old.dtype) * 0.5


if __name__ == "__main__":
    main(tyro.cli(Options))
