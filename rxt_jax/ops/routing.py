"""Mixture of experts as functions: who goes where, what balance costs, and the grouped products."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.ops.grouped_kernel import kernel_slopes, kernels_run_here, multiply_tiles, tile_slopes

__all__ = ["BalanceLoss", "Routing", "balance_loss", "grouped_product", "route", "sort_by_expert"]

BalanceLoss = Literal["switch", "published"]


class Routing(NamedTuple):
    """Where N tokens go: their k experts in falling order of probability."""

    probabilities: Float[Array, "N E"]
    experts: Int[Array, "N k"]
    weights: Float[Array, "N k"]


def route(logits: Float[Array, "N E"], experts_per_token: int) -> Routing:
    """Choose the k likeliest experts, their probabilities rescaled to sum to 1. Source: docs/method.md, eq. 41.

    With k = 1 the weight is ≈ 1 whatever the router says, so that it learns from balance alone.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    chosen, experts = jax.lax.top_k(probabilities, experts_per_token)
    weights = chosen / (jnp.sum(chosen, axis=-1, keepdims=True) + 1e-9)
    return Routing(probabilities, experts, weights)


def balance_loss(
    routing: Routing,
    token_mask: Bool[Array, "N"] | None,
    kind: BalanceLoss = "switch",
    over: tuple[str, ...] = (),
) -> Float[Array, ""]:
    """Charge for uneven use of experts; 1 is even, E is one expert for all.

    `switch` is E · Σ_e load_e · mean probability_e over real tokens (Fedus et al., 2021). `published`
    is E × the mean selected probability over all tokens, padding included: it does not depend on the
    load, which is why it is not the default. `over` names the axes of a mesh whose devices have other tokens of the
    same batch: loads and probabilities are those of all of them. Source: docs/method.md, eq. 45 and 46.
    """
    probabilities, experts, _ = routing
    count = probabilities.shape[-1]

    def everywhere(x: Array) -> Array:
        return jax.lax.psum(x, over) if over else x

    if kind == "published":
        chosen = jnp.mean(jnp.take_along_axis(probabilities, experts, axis=-1))
        return count * (jax.lax.pmean(chosen, over) if over else chosen)
    real = jnp.ones(len(probabilities)) if token_mask is None else token_mask.astype(jnp.float32)
    total = jnp.maximum(everywhere(jnp.sum(real)), 1.0)
    used = everywhere(jnp.sum(jax.nn.one_hot(experts, count) * real[:, None, None], axis=(0, 1)))
    load = used / (total * experts.shape[-1])
    # Both are means over all devices before they are multiplied: a device's own product would be another loss.
    mean = everywhere(jnp.sum(probabilities * real[:, None], axis=0)) / total
    return count * jnp.sum(jax.lax.stop_gradient(load) * mean)


class SortedTokens(NamedTuple):
    """Tokens in the order of their experts, each expert's run filled up to whole tiles."""

    token: Int[Array, "P"]  # the token in each place, N where the place is empty
    place: Int[Array, "N k"]  # the place of each (token, choice)
    tile_expert: Int[Array, "P_over_tile"]
    tile: int


def sort_by_expert(experts: Int[Array, "N k"], num_experts: int) -> SortedTokens:
    """Lay out N · k assignments in tiles that belong to one expert each; none is ever dropped.

    The number of tiles is static, that of the routing which leaves the most places empty, so that one program serves
    every routing. Few assignments meet few experts: then no others are counted, and none of their kernels is read.
    """
    tokens, choices = experts.shape
    assignments = tokens * choices
    tile = min(128, max(8, 1 << max(assignments // (4 * num_experts), 1).bit_length()))
    tiles = (assignments + min(num_experts, assignments) * (tile - 1)) // tile
    flat = experts.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    counts = jnp.bincount(flat, length=num_experts)
    ends = jnp.cumsum(-(-counts // tile))  # in tiles
    starts = (ends - (-(-counts // tile))) * tile
    rank = jnp.arange(assignments) - (jnp.cumsum(counts) - counts)[flat[order]]
    place = jnp.zeros(assignments, jnp.int32).at[order].set(starts[flat[order]] + rank)
    token = jnp.full(tiles * tile, tokens).at[place].set(jnp.arange(assignments) // choices)
    tile_expert = jnp.searchsorted(ends, jnp.arange(tiles), side="right")
    return SortedTokens(token, place.reshape(tokens, choices), jnp.minimum(tile_expert, num_experts - 1), tile)


def grouped_product(
    x: Float[Array, "P D"],
    kernels: Float[Array, "E D F"],
    sorted_tokens: SortedTokens,
    rounded: Float[Array, "E D F"] | None = None,
) -> Float[Array, "P F"]:
    """Multiply every tile with the kernel of its expert, in the dtype of x.

    What the tiles of an expert contribute to the slope of its kernel is float32 from the product to the sum. `rounded`
    are the kernels in the dtype of x, for who has them.
    """
    tiles = x.reshape(-1, sorted_tokens.tile, x.shape[-1])
    rounded = kernels.astype(x.dtype) if rounded is None else rounded.astype(x.dtype)
    rounded = jax.lax.stop_gradient(rounded)  # the slope is that of `kernels`
    return _multiply(tiles, kernels, rounded, sorted_tokens.tile_expert).reshape(x.shape[0], -1)


# The derivative is written by hand because the one that JAX derives rounds and adds up the tiles' contributions in
# the dtype of x, and keeps the kernels of all tiles, which are as large as everything else of a layer together.
@jax.custom_vjp
def _multiply(
    tiles: Float[Array, "P b D"],
    kernels: Float[Array, "E D F"],
    rounded: Float[Array, "E D F"],
    tile_expert: Int[Array, "P"],
) -> Float[Array, "P b F"]:
    def blocks(tiles: Array, rounded: Array, tile_expert: Array) -> Array:
        return jnp.einsum("PbD,PDF->PbF", tiles, rounded[tile_expert])

    if not kernels_run_here():
        return blocks(tiles, rounded, tile_expert)
    return jax.lax.platform_dependent(tiles, rounded, tile_expert, tpu=multiply_tiles, default=blocks)


def _multiply_forward(
    tiles: Array, kernels: Array, rounded: Array, tile_expert: Array
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    # Of the kernels themselves only the dtype is kept.
    return _multiply(tiles, kernels, rounded, tile_expert), (tiles, rounded, tile_expert, kernels[:0])


def _multiply_backward(kept: tuple[Array, Array, Array, Array], slope: Array) -> tuple[Array, Array, None, None]:
    tiles, rounded, tile_expert, none = kept

    def blocks(tiles: Array, slope: Array, rounded: Array, tile_expert: Array) -> tuple[Array, Array]:
        tile_slope = jnp.einsum("PbF,PDF->PbD", slope, rounded[tile_expert])
        each = jnp.einsum("PbD,PbF->PDF", tiles, slope, preferred_element_type=jnp.float32)
        return tile_slope, jnp.zeros(rounded.shape, jnp.float32).at[tile_expert].add(each)

    def kernel(tiles: Array, slope: Array, rounded: Array, tile_expert: Array) -> tuple[Array, Array]:
        return tile_slopes(slope, rounded, tile_expert), kernel_slopes(tiles, slope, tile_expert, len(rounded))

    given = (tiles, slope, rounded, tile_expert)
    if kernels_run_here():
        tile_slope, kernel_slope = jax.lax.platform_dependent(*given, tpu=kernel, default=blocks)
    else:
        tile_slope, kernel_slope = blocks(*given)
    return tile_slope, kernel_slope.astype(none.dtype), None, None


_multiply.defvjp(_multiply_forward, _multiply_backward)
