"""Attention by JAX's Pallas kernel for TPUs (splash attention): no array of scores ever exists.

It serves what training reads in long rows. Everything else stays with the body of `ops/attention.py`: dropout, masks of
pairs, float32, lengths that are no multiple of the kernel's tiles, and little work, for which XLA is as good.
Source: jax.experimental.pallas.ops.tpu.splash_attention; docs/method.md, eq. 14.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["LEAST_SCORES", "attend_by_splash", "splash_serves"]

_TILE = 128  # lengths are multiples of it
_BLOCK = 512  # at most, of queries and of keys
LEAST_SCORES = 1 << 20  # of a head, below which XLA is as good as a kernel


def splash_serves(query: Array, key: Array, *, has_pairs: bool, least: int = LEAST_SCORES) -> str | None:
    """Say why the kernel cannot or should not serve these shapes, or None where it does."""
    length, num_keys, heads, kv_heads = query.shape[1], key.shape[1], query.shape[2], key.shape[2]
    if has_pairs:
        return "masks of pairs of tokens are not known to it"
    if query.dtype != jnp.bfloat16 or key.dtype != jnp.bfloat16:
        return f"it is for bfloat16, got {query.dtype} and {key.dtype}"
    if length % _TILE or num_keys % _TILE:
        return f"{length} queries and {num_keys} keys are not multiples of {_TILE}"
    if heads % kv_heads:
        return f"{heads} query heads are no multiple of {kv_heads} key heads"
    if length * num_keys < least:
        return f"{length} x {num_keys} scores are too few to be worth it"
    return None


def attend_by_splash(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    query_groups: Int[Array, "B T"] | None = None,
    key_groups: Int[Array, "B S"] | None = None,
    *,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Attend within groups of tokens: a query sees the keys of its own number. Every query must see a key."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds  # Pallas takes a while to import

    heads, head_dim = query.shape[2:]
    kernel: Any = _kernel(query.shape[1], key.shape[1], heads, causal, interpret)
    scaled = (query * head_dim**-0.5).astype(query.dtype)
    query, key, value = (jnp.swapaxes(each, 1, 2) for each in (scaled, key, value))

    def one(query: Array, key: Array, value: Array, groups: Any) -> Array:
        return kernel(query, key, value, None if groups is None else SegmentIds(q=groups[0], kv=groups[1]))

    groups = None
    if query_groups is not None and key_groups is not None:
        groups = (query_groups.astype(jnp.int32), key_groups.astype(jnp.int32))
    return jnp.swapaxes(jax.vmap(one)(query, key, value, groups), 1, 2)


@lru_cache(maxsize=32)
def _mask(length: int, num_keys: int, heads: int, causal: bool) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    one = masks.CausalMask((length, num_keys)) if causal else masks.FullMask((length, num_keys))
    return masks.MultiHeadMask([one] * heads)


def _kernel(length: int, num_keys: int, heads: int, causal: bool, interpret: bool) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    rows, columns = (next(size for size in (_BLOCK, 256, _TILE) if n % size == 0) for n in (length, num_keys))
    blocks = splash.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        use_fused_bwd_kernel=True,
    )
    return splash.make_splash_mha(
        _mask(length, num_keys, heads, causal),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
