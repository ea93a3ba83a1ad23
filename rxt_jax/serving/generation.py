"""Generation: a prefill, then a loop of single tokens that the host need not see.

`generate` runs the loop to the end; `extend` runs it for a few tokens, for callers who stream. Memory is
read through projections made once per interaction, the own tokens through a cache.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxt_jax.serving.sampling import SamplingConfig, sample
from rxt_jax.types import Array, Key

__all__ = ["Generated", "Generation", "Rules", "extend", "generate", "prefill", "read"]


class Generation(NamedTuple):
    """Where a generation stands: caches, next position and logits of every row, which rows go on."""

    cache: Any
    memory: Any
    position: Array  # int32 [B]
    logits: Array  # float32 [B V]
    active: Array  # bool [B]
    made: Array  # int32, tokens made so far


class Generated(NamedTuple):
    """New tokens `[B G]`; `mask` is True up to and including the end token.

    `log_probs` are those of the distribution that was sampled from, `raw_log_probs` those of the model;
    the first token of a reply is not drawn: its `log_probs` are 0.
    """

    ids: Array
    mask: Array
    log_probs: Array
    raw_log_probs: Array


class Rules(NamedTuple):
    """How rows go on and when they end; hashable, so that a jitted function can take it as static.

    A row of prompt and new tokens never grows beyond `width`, a reply never beyond `limit` tokens. `first`
    names the ids among which the likeliest is the first token: one id forces it.
    """

    width: int
    end_id: int
    sampling: SamplingConfig
    pad_id: int = 0
    first: tuple[int, ...] = ()
    limit: int | None = None


def prefill(model: Any, memory: Any, ids: Array, token_mask: Array, width: int) -> Generation:
    """Read right-padded prompts `[B T]` and make room for rows of `width` tokens."""
    batch = len(ids)
    nothing = Generation(
        cache=model.empty_cache(batch, width),
        memory=model.project_memory(memory),
        position=jnp.zeros(batch, jnp.int32),
        logits=jnp.zeros((batch, 0), jnp.float32),
        active=jnp.zeros(batch, bool),
        made=jnp.int32(0),
    )
    return read(model, nothing, ids, token_mask, width)


def read(model: Any, generation: Generation, ids: Array, token_mask: Array, width: int) -> Generation:
    """Read right-padded tokens `[B T]` behind those that were read before; rows may grow to `width`."""
    lengths = jnp.sum(token_mask, axis=1, dtype=jnp.int32)
    positions = generation.position[:, None] + jnp.arange(ids.shape[1])
    logits, cache = model.decode_cached(
        ids, positions, token_mask, generation.cache, generation.memory, logits_at=lengths - 1
    )
    position = generation.position + lengths
    return Generation(cache, generation.memory, position, logits, position < width, jnp.int32(0))


def extend(
    model: Any,
    generation: Generation,
    key: Key,
    rules: Rules,
    count: int,
) -> tuple[Generation, Generated]:
    """Make up to `count` more tokens per row; the loop stops early when no row goes on."""
    batch = len(generation.position)
    empty = Generated(
        jnp.full((batch, count), rules.pad_id, jnp.int32),
        jnp.zeros((batch, count), bool),
        jnp.zeros((batch, count), jnp.float32),
        jnp.zeros((batch, count), jnp.float32),
    )

    def going(carry: tuple) -> Array:
        number, generation, _ = carry
        return (number < count) & jnp.any(generation.active)

    def step(carry: tuple) -> tuple:
        number, generation, made = carry
        active = generation.active
        new, log_probs = sample(generation.logits, rules.sampling, jax.random.fold_in(key, generation.made))
        if rules.first:
            choices = jnp.array(rules.first)
            chosen = choices[jnp.argmax(generation.logits[:, choices], axis=-1)]
            new = jnp.where(generation.made == 0, chosen, new)
            log_probs = jnp.where(generation.made == 0, 0.0, log_probs)
        new = jnp.where(active, new, rules.pad_id)
        raw = jnp.take_along_axis(jax.nn.log_softmax(generation.logits, axis=-1), new[:, None], axis=-1)[:, 0]
        made = Generated(
            made.ids.at[:, number].set(new),
            made.mask.at[:, number].set(active),
            made.log_probs.at[:, number].set(jnp.where(active, log_probs, 0.0)),
            made.raw_log_probs.at[:, number].set(jnp.where(active, raw, 0.0)),
        )
        goes_on = active & (new != rules.end_id) & (generation.position + 1 < rules.width)
        if rules.limit is not None:
            goes_on &= generation.made + 1 < rules.limit
        return number + 1, _append(model, generation, new, goes_on), made

    _, generation, made = jax.lax.while_loop(going, step, (jnp.int32(0), generation, empty))
    return generation, made


def generate(
    model: Any,
    memory: Any,
    ids: Array,
    token_mask: Array,
    key: Key,
    *,
    max_new_tokens: int,
    end_id: int,
    sampling: SamplingConfig,
    pad_id: int = 0,
    first: tuple[int, ...] = (),
    width: int | None = None,
) -> Generated:
    """Continue right-padded prompts `[B T]` until every row has ended or `max_new_tokens` are made.

    The rest are `Rules`; without a `width` there is room for all new tokens. To be called inside
    `jax.jit`.
    """
    width = ids.shape[1] + max_new_tokens if width is None else width
    rules = Rules(width, end_id, sampling, pad_id, first)
    return extend(model, prefill(model, memory, ids, token_mask, width), key, rules, max_new_tokens)[1]


def _append(model: Any, generation: Generation, ids: Array, goes_on: Array) -> Generation:
    """Read one new token per row; rows that have ended stay where they are."""
    logits, cache = model.decode_cached(
        ids[:, None],
        generation.position[:, None],
        goes_on[:, None],
        generation.cache,
        generation.memory,
        logits_at=jnp.zeros_like(ids),
    )
    position = generation.position + goes_on
    return Generation(cache, generation.memory, position, logits, goes_on, generation.made + 1)
