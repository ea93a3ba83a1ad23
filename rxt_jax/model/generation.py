"""Generation: a prefill, then a loop of single tokens that the host need not see.

`generate` runs the loop to the end; `extend` runs it for a few tokens, for callers who stream. Memory is
read through projections made once per interaction, the own tokens through a cache.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.generation_rules import Rules
from rxt_jax.ops.sampling import sample

__all__ = ["Generated", "Generation", "extend", "generate", "prefill", "prompt_width", "prompt_widths", "read"]

_NARROWEST = 16


class Generation(NamedTuple):
    """Where a generation stands: caches, next position and logits of every row, which rows go on, by what rules.

    `made` counts the tokens that a row has made since its last prompt.
    """

    cache: Any
    memory: Any
    position: Array  # int32 [B]
    logits: Array  # float32 [B V]
    active: Array  # bool [B]
    made: Array  # int32 [B]
    rules: Rules


class Generated(NamedTuple):
    """New tokens `[B T]`; `mask` is True up to and including the end token.

    `log_probs` are those of the distribution that was sampled from, `raw_log_probs` those of the model;
    a first token that the rules name is not drawn: its `log_probs` are 0.
    """

    ids: Array
    mask: Array
    log_probs: Array
    raw_log_probs: Array


def prompt_widths(longest: int) -> tuple[int, ...]:
    """List the few widths at which prompts are read: `longest`, its half, quarter and eighth, narrowest first.

    None is below 16: there is little to save, and each costs a compilation.
    """
    parts = (-(-longest // divisor) for divisor in (8, 4, 2))
    return (*(width for width in parts if width >= _NARROWEST), longest)


def prompt_width(length: int, longest: int) -> int:
    """Choose the narrowest of the `prompt_widths` for a prompt of `length` tokens; one above `longest` is an error."""
    if length > longest:
        raise ValueError(f"a prompt may have {longest} tokens, got {length}.")
    return min(width for width in prompt_widths(longest) if length <= width)


def prefill(
    model: Any, memory: Any, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], rules: Rules, width: int
) -> Generation:
    """Read right-padded prompts and make room for rows of `width` tokens, prompt and reply together."""
    batch = len(ids)
    nothing = Generation(
        cache=model.empty_cache(batch, width),
        memory=model.project_memory(memory),
        position=jnp.zeros(batch, jnp.int32),
        logits=jnp.zeros((batch, 0), jnp.float32),
        active=jnp.zeros(batch, bool),
        made=jnp.zeros(batch, jnp.int32),
        rules=rules,
    )
    return read(model, nothing, ids, token_mask, rules, width)


def read(
    model: Any,
    generation: Generation,
    ids: Int[Array, "B T"],
    token_mask: Bool[Array, "B T"],
    rules: Rules,
    width: int,
) -> Generation:
    """Read right-padded tokens behind those that were read before; rows may grow to `width` by new rules."""
    lengths = jnp.sum(token_mask, axis=1, dtype=jnp.int32)
    positions = generation.position[:, None] + jnp.arange(ids.shape[1])
    logits, cache = model.decode_cached(
        ids, positions, token_mask, generation.cache, generation.memory, logits_at=lengths - 1
    )
    position = generation.position + lengths
    limit = jnp.minimum(rules.limit, width - position)
    made = jnp.zeros_like(position)
    return Generation(cache, generation.memory, position, logits, limit > 0, made, rules._replace(limit=limit))


def extend(
    model: Any,
    generation: Generation,
    count: int,
    *,
    end_id: int,
    pad_id: int = 0,
    most: int | Int[Array, ""] | None = None,
) -> tuple[Generation, Generated]:
    """Make up to `count` more tokens per row; the loop stops early when no row goes on.

    A row ends behind `end_id` or at its limit; `pad_id` fills what is behind. `most` bounds the tokens of this call
    further, as data: another bound compiles nothing.
    """
    bound = count if most is None else jnp.minimum(count, most)
    batch, rules = len(generation.position), generation.rules
    empty = Generated(
        jnp.full((batch, count), pad_id, jnp.int32),
        jnp.zeros((batch, count), bool),
        jnp.zeros((batch, count), jnp.float32),
        jnp.zeros((batch, count), jnp.float32),
    )

    def going(carry: tuple) -> Array:
        number, generation, _ = carry
        return (number < bound) & jnp.any(generation.active)

    def step(carry: tuple) -> tuple:
        number, generation, made = carry
        active = generation.active
        new, log_probs = _next_token(generation, rules)
        new = jnp.where(active, new, pad_id)
        raw = jnp.take_along_axis(jax.nn.log_softmax(generation.logits, axis=-1), new[:, None], axis=-1)[:, 0]
        made = Generated(
            made.ids.at[:, number].set(new),
            made.mask.at[:, number].set(active),
            made.log_probs.at[:, number].set(jnp.where(active, log_probs, 0.0)),
            made.raw_log_probs.at[:, number].set(jnp.where(active, raw, 0.0)),
        )
        goes_on = active & (new != end_id) & (generation.made + 1 < rules.limit)
        return number + 1, _append(model, generation, new, goes_on), made

    # The rules stay outside what the loop carries: where they are constants, what they never ask for is not compiled.
    start = (jnp.int32(0), generation._replace(rules=None), empty)
    _, generation, made = jax.lax.while_loop(going, step, start)
    return generation._replace(rules=rules), made


def generate(
    model: Any,
    memory: Any,
    ids: Int[Array, "B T"],
    token_mask: Bool[Array, "B T"],
    rules: Rules,
    *,
    max_new_tokens: int,
    end_id: int,
    pad_id: int = 0,
    width: int | None = None,
) -> Generated:
    """Continue right-padded prompts until every row has ended or `max_new_tokens` are made.

    Prompt and reply never grow beyond `width` together; without one there is room for all new tokens. To be called
    inside `jax.jit`.
    """
    width = ids.shape[1] + max_new_tokens if width is None else width
    generation = prefill(model, memory, ids, token_mask, rules, width)
    return extend(model, generation, max_new_tokens, end_id=end_id, pad_id=pad_id)[1]


def _next_token(generation: Generation, rules: Rules) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """Choose the next token of every row; return its log-probability too."""
    new, log_probs = sample(generation.logits, rules.sampling, rules.key, generation.made)
    named = jnp.asarray(rules.first)
    logits = jnp.take_along_axis(generation.logits, jnp.maximum(named, 0), axis=1)
    best = jnp.argmax(jnp.where(named >= 0, logits, -jnp.inf), axis=1, keepdims=True)
    is_named = (generation.made == 0) & jnp.any(named >= 0, axis=1)
    new = jnp.where(is_named, jnp.take_along_axis(named, best, axis=1)[:, 0], new)
    return new, jnp.where(is_named, 0.0, log_probs)


def _append(model: Any, generation: Generation, ids: Int[Array, "B"], goes_on: Bool[Array, "B"]) -> Generation:
    """Read one new token per row; rows that have ended stay where they are."""
    logits, cache = model.decode_cached(
        ids[:, None],
        generation.position[:, None],
        goes_on[:, None],
        generation.cache,
        generation.memory,
        logits_at=jnp.zeros_like(ids),
    )
    return generation._replace(
        cache=cache,
        position=generation.position + goes_on,
        logits=logits,
        active=goes_on,
        made=generation.made + generation.active,
    )
