"""Mixture of experts: a router, stacked experts, and experts that everybody shares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.nn.feed_forward import FeedForward, FeedForwardConfig, gate_hidden
from rxt_jax.nn.linear import Linear
from rxt_jax.nn.parameters import constant, make_parameter, normal
from rxt_jax.nn.rounding import rounded_copy
from rxt_jax.ops.activations import Activation
from rxt_jax.ops.dropout import dropout
from rxt_jax.ops.routing import BalanceLoss, Routing, balance_loss, grouped_product, route, sort_by_expert
from rxt_jax.row_sharding import map_rows
from rxt_jax.types import Key

__all__ = ["BiasMode", "MixtureConfig", "MixtureOfExperts"]

BiasMode = Literal["global", "local", "off"]
"""`local`: biases inside every expert; `global`: one bias for the sum of the experts."""

_EXPERT_INIT = normal(0.02)
_EXACT = jax.lax.Precision.HIGHEST


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Routed and shared experts. Source: docs/method.md §9.

    Who goes where is computed in float32, also where the default precision of the device is lower.
    """

    num_experts: int
    """Routed experts, E."""
    experts_per_token: int
    """How many of them a token goes to, 1 … E; with 1 the router learns from the balance loss alone."""
    mlp_dim: int
    """Hidden width of a routed expert."""
    gated: bool = True
    """As in `FeedForwardConfig`, for all experts."""
    activation: Activation = "silu"
    """As in `FeedForwardConfig`, for all experts."""
    dropout: float = 0.0
    """Probability in [0, 1) to drop a hidden channel of an expert, in training."""
    bias: BiasMode = "global"
    """Biases of the routed experts (docs/method.md, eq. 42)."""
    num_shared_experts: int = 0
    """Experts that every token passes through (docs/method.md, eq. 43)."""
    shared_mlp_dim: int | None = None
    """Hidden width of a shared expert; None = `mlp_dim`."""
    shared_bias: BiasMode = "local"
    """Biases of the shared experts."""
    weigh_shared: bool = False
    """Scale routed and shared experts by k/(k + Sh) and Sh/(k + Sh) (docs/method.md, eq. 44)."""
    router_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the router's product; bfloat16 is that of RxT-Beta. The softmax is float32."""
    balance_loss: BalanceLoss = "switch"
    """What uneven use costs: docs/method.md, eq. 45 or 46. Its factor is the stage's `balance_loss_scale`."""

    def __post_init__(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token must lie in 1 … num_experts = {self.num_experts}, got {self.experts_per_token}."
            )
        if self.num_shared_experts < 0:
            raise ValueError(f"num_shared_experts must not be negative, got {self.num_shared_experts}.")
        self.expert(self.mlp_dim, bias=False)

    @property
    def routed_share(self) -> float:
        """Weight of the routed experts where shared ones are weighed, k/(k + Sh) (docs/method.md, eq. 44)."""
        return self.experts_per_token / (self.experts_per_token + self.num_shared_experts)

    def expert(self, mlp_dim: int, *, bias: bool) -> FeedForwardConfig:
        """Describe one expert as a dense layer."""
        return FeedForwardConfig(
            mlp_dim=mlp_dim,
            gated=self.gated,
            activation=self.activation,
            dropout=self.dropout,
            bias=bias,
        )


class _StackedExperts(nnx.Module):
    """E feed-forward layers in one array each; `axis` is the name of E."""

    rounded_kernels = ("up", "down")

    def __init__(self, embed_dim: int, count: int, config: FeedForwardConfig, axis: str, *, rngs: nnx.Rngs):
        self.config = config
        parts = 2 if config.gated else 1
        up, down = (embed_dim, parts, config.mlp_dim), (config.mlp_dim, embed_dim)
        up_axes, down_axes = ("embed", "parts", "mlp"), ("mlp", "embed")
        self.up = make_parameter(rngs, _EXPERT_INIT, (count, *up), (axis, *up_axes))
        self.down = make_parameter(rngs, _EXPERT_INIT, (count, *down), (axis, *down_axes))
        if config.bias:
            zero = constant(0.0)
            self.up_bias = make_parameter(rngs, zero, (count, *up[1:]), (axis, "parts", "mlp"))
            self.down_bias = make_parameter(rngs, zero, (count, embed_dim), (axis, "norm"))


class MixtureOfExperts(nnx.Module):
    """y = Σ_j w_j · expert_j(x) over the k chosen experts, plus the shared ones; nothing is dropped."""

    def __init__(self, embed_dim: int, config: MixtureConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.router = Linear({"embed": embed_dim}, {"experts": config.num_experts}, bias=False, rngs=rngs)
        expert = config.expert(config.mlp_dim, bias=config.bias == "local")
        self.experts = _StackedExperts(embed_dim, config.num_experts, expert, "experts", rngs=rngs)
        zero = constant(0.0)
        if config.bias == "global":
            self.bias = make_parameter(rngs, zero, (embed_dim,), ("norm",))
        if config.num_shared_experts:
            width = config.shared_mlp_dim or config.mlp_dim
            shared = config.expert(width, bias=config.shared_bias == "local")
            count = config.num_shared_experts
            if count == 1:
                self.shared_expert = FeedForward(embed_dim, shared, rngs=rngs)
            else:
                # Every token goes through all of them, so devices that share the routed experts each have these.
                self.shared = _StackedExperts(embed_dim, count, shared, "shared_experts", rngs=rngs)
                self.shared_gate = Linear({"embed": embed_dim}, {"shared_experts": count}, bias=False, rngs=rngs)
            if config.shared_bias == "global":
                self.shared_bias = make_parameter(rngs, zero, (embed_dim,), ("norm",))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        token_mask: Bool[Array, "B T"] | None = None,
        *,
        balance_groups: int | None = None,
        key: Key | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "*groups"]]:
        """Return the output and the balance loss of this layer; the mask matters to the loss alone.

        With `balance_groups` the rows r, r + groups, r + 2 · groups, … have a loss of their own.
        """
        config = self.config
        keys = (None, None) if key is None else jax.random.split(key)
        output, loss = self._route(x, token_mask, balance_groups, keys[0])
        flat = output.reshape(-1, x.shape[-1])
        if config.bias == "global":
            flat = flat + self.bias[...].astype(x.dtype)
        if config.num_shared_experts:
            shared, uneven = self._shared(x.reshape(flat.shape), keys[1])
            flat = flat + (shared * (1.0 - config.routed_share) if config.weigh_shared else shared)
            if uneven is not None:
                loss = loss + _by_group(jnp.mean, balance_groups, len(x), uneven)
        return flat.reshape(x.shape), loss

    def _route(
        self, x: Float[Array, "B T D"], token_mask: Bool[Array, "B T"] | None, groups: int | None, key: Key | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "*groups"]]:
        """Send tokens to their experts, every device its own: sorting those of all devices would have each device
        compute the experts of all of them."""
        graphdef, params = nnx.split({"router": self.router, "experts": self.experts})
        mask = jnp.ones(x.shape[:2], bool) if token_mask is None else token_mask

        def local(rows: Any, given: Any, over: tuple[str, ...]) -> tuple[Array, Array]:
            x, mask, numbers = rows
            params, key = given
            if over and key is not None:
                key = jax.random.fold_in(key, numbers[0])
            parts = nnx.merge(graphdef, params)
            flat = x.reshape(-1, x.shape[-1])
            logits = parts["router"](flat.astype(self.config.router_dtype), precision=_EXACT)
            routing = route(logits, self.config.experts_per_token)

            def charge(routing: Routing, real: Array) -> Array:
                return balance_loss(routing, real, self.config.balance_loss, over)

            loss = _by_group(charge, groups, len(x), routing, mask.reshape(-1))
            weights = routing.weights
            if self.config.weigh_shared and self.config.num_shared_experts:
                weights = weights * self.config.routed_share
            return self._apply(parts["experts"], flat, routing.experts, weights, key).reshape(x.shape), loss

        return map_rows(local, (x, mask, jnp.arange(len(x))), (params, key), multiple=groups or 1)

    def _apply(
        self,
        stack: "_StackedExperts",
        x: Float[Array, "N D"],
        experts: Int[Array, "N k"],
        weights: Float[Array, "N k"],
        key: Key | None,
    ) -> Float[Array, "N D"]:
        """Apply to every token its experts, and join what they say."""
        places = sort_by_expert(experts, self.config.num_experts)
        expert_of_row = jnp.repeat(places.tile_expert, places.tile)
        rows = jnp.concatenate([x, jnp.zeros_like(x[:1])])[places.token]
        kernel, rounded = stack.up[...], rounded_copy(stack, "up")
        flat = (*kernel.shape[:2], -1)
        hidden = grouped_product(
            rows, kernel.reshape(flat), places, None if rounded is None else rounded.reshape(flat)
        ).reshape(-1, *kernel.shape[2:])
        if stack.config.bias:
            # Picked before rounding, so that the slopes of an expert's tokens add up in float32.
            hidden = hidden + stack.up_bias[...][expert_of_row].astype(x.dtype)
        hidden = dropout(gate_hidden(stack.config, hidden), self.config.dropout, key)
        rows = grouped_product(hidden, stack.down[...], places, rounded_copy(stack, "down"))
        if stack.config.bias:
            rows = rows + stack.down_bias[...][expert_of_row].astype(x.dtype)
        return jnp.einsum("Nk,NkD->ND", weights.astype(x.dtype), rows[places.place])

    def _shared(self, x: Float[Array, "N D"], key: Key | None) -> tuple[Float[Array, "N D"], Array | None]:
        """Return also how unevenly every token mixes the shared experts, `[N E]`, where that is charged for."""
        uneven = None
        if self.config.num_shared_experts == 1:
            output = self.shared_expert(x, key=key)
        else:
            stack = self.shared
            hidden = jnp.einsum("ND,EDPF->NEPF", x, stack.up[...].astype(x.dtype))
            if stack.config.bias:
                hidden = hidden + stack.up_bias[...].astype(x.dtype)
            hidden = dropout(gate_hidden(stack.config, hidden), self.config.dropout, key)
            each = jnp.einsum("NEF,EFD->NED", hidden, stack.down[...].astype(x.dtype))
            if stack.config.bias:
                each = each + stack.down_bias[...].astype(x.dtype)
            mixing = jax.nn.softmax(self.shared_gate(x.astype(jnp.float32), precision=_EXACT), axis=-1)
            output = jnp.einsum("NE,NED->ND", mixing.astype(x.dtype), each)
            if self.config.balance_loss == "published":
                uneven = jnp.abs(mixing - 1.0 / mixing.shape[-1])
        if self.config.shared_bias == "global":
            output = output + self.shared_bias[...].astype(x.dtype)
        return output, uneven


def _by_group(function: Callable[..., Array], groups: int | None, rows: int, *tokens: Any) -> Array:
    """Apply a function of the N = rows · T tokens to all of them, or to those of every group of rows."""
    if groups is None:
        return function(*tokens)

    def split(leaf: Array) -> Array:
        by_row = leaf.reshape(rows // groups, groups, len(leaf) // rows, *leaf.shape[1:])
        return jnp.swapaxes(by_row, 0, 1).reshape(groups, -1, *leaf.shape[1:])

    return jax.vmap(function)(*jax.tree.map(split, tokens))
