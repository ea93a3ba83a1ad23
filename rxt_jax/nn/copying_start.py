"""An attention that copies before it has learnt anything.

With the usual start every query reads the mean of all keys. Memory written that way says the same of every interaction,
and a decoder that has learnt to read states learns to leave memory alone, before there is anything in it. Source:
docs/method.md §7.7; what it is worth: benchmarks/toy.md.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.nn.attention import Attention, AttentionConfig
from rxt_jax.types import Array, Key

__all__ = ["check_copying", "start_copying", "start_induction"]

# Measured on the toy (benchmarks/toy.md): scores with a spread of about 1 where the usual start has 0.3, and twice what
# was read, so that one write outweighs a slot's first content.
_SHARPNESS = math.sqrt(3.0)
_AMPLITUDE = 2.0
_SHARE = 0.5  # what an induction head adds to a token, which has more to say than that


_ROUNDS = 40  # a round makes small singular values half as large again: those of a millionth become 1 as well


def check_copying(embed_dim: int, config: AttentionConfig, option: str = "start='copy'") -> None:
    """Refuse heads that cannot give back an input whole."""
    heads = (config.num_query_heads, config.num_kv_heads)
    if heads[0] != heads[1] or heads[0] * config.head_dim != embed_dim:
        raise ValueError(
            f"{option} needs as many key/value heads as query heads, whose widths add up to embed_dim = "
            f"{embed_dim}; got {heads[0]} and {heads[1]} of {config.head_dim}. Change them, or do without."
        )


def start_copying(attention: Attention, rngs: nnx.Rngs, *, alike: bool = False) -> None:
    """Change fresh kernels, so that queries differ in what they read, and what is read is what was there.

    Query and key maps become larger, the value map a rotation and the output map its inverse. Where they are to be
    `alike`, the query map becomes the key map: a query reads what resembles it.
    """
    _start(attention, rngs, _AMPLITUDE, alike=alike)


def start_induction(attention: Attention, rngs: nnx.Rngs) -> None:
    """Change fresh kernels, so that a query reads what its key resembles, and reads a share of it whole.

    Where keys are made of the token before, that is an induction head: it finds what followed the same token earlier.
    """
    _start(attention, rngs, _SHARE, alike=True)


def _start(attention: Attention, rngs: nnx.Rngs, amplitude: float, *, alike: bool) -> None:
    embed_dim, heads, width = attention.value.kernel.shape
    for kernel in (attention.query.kernel, attention.key.kernel):
        kernel[...] = _SHARPNESS * kernel[...]
    if alike:
        attention.query.kernel[...] = attention.key.kernel[...]
    rotation = _random_rotation(rngs.params(), embed_dim)
    attention.value.kernel[...] = amplitude * rotation.reshape(embed_dim, heads, width)
    attention.output.kernel[...] = rotation.T.reshape(heads, width, embed_dim)


def _random_rotation(key: Key, size: int) -> Array:
    """Draw an orthogonal matrix: a Gaussian one whose singular values Newton-Schulz iteration brings to 1.

    By products alone: a QR decomposition waits for ever where the CPU is split into several devices (JAX 0.10.2).
    """
    drawn = jax.random.normal(key, (size, size))

    def improve(_: Any, x: Array) -> Array:
        square = jnp.matmul(x, x.T, precision="highest")
        return 1.5 * x - 0.5 * jnp.matmul(square, x, precision="highest")

    # The largest singular value of such a matrix is about twice the root of its size; it must not exceed √3.
    return jax.lax.fori_loop(0, _ROUNDS, improve, drawn / (2.0 * math.sqrt(size)))
