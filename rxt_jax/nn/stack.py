"""Stacks of layers: equal neighbours share one set of arrays `[layers, ...]` and one compiled body.

Compile time therefore grows with the number of different layers, not with depth.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rxt_jax.nn.remat import rematerialised
from rxt_jax.types import Key

__all__ = ["LayerStack", "join_layers", "stack_modules"]


def stack_modules(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Make `count` equal modules as one whose parameters carry a leading layer axis."""
    return nnx.vmap(lambda rngs: make(rngs))(rngs.split(count))


class LayerStack(nnx.Module):
    """Layers in order, cut into segments of equal configs, each segment run by one `jax.lax.scan`.

    `remat` says what of a layer is kept for the gradient, see `nn/remat.py`.
    """

    def __init__(
        self,
        configs: Sequence[Any],
        make: Callable[[Any, nnx.Rngs], nnx.Module],
        *,
        unroll: int = 1,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        runs = [(config, len(list(run))) for config, run in itertools.groupby(configs)]
        self.counts = tuple(count for _, count in runs)
        self.configs = tuple(config for config, _ in runs)
        self.unroll = unroll
        self.remat = remat
        self.segments = nnx.List(
            [stack_modules(lambda rngs, config=config: make(config, rngs), count, rngs) for config, count in runs]
        )

    def __len__(self) -> int:
        return sum(self.counts)

    def split(self, per_layer: Any) -> tuple[Any, ...]:
        """Cut a pytree with a leading axis of all layers into one per segment."""
        ends = itertools.accumulate(self.counts)

        def part(end: int, count: int) -> Any:
            return jax.tree.map(lambda leaf: leaf[end - count : end], per_layer)

        return tuple(part(end, count) for end, count in zip(ends, self.counts, strict=True))

    def scan(
        self,
        apply: Callable[[Any, Any, Any, Key | None], tuple[Any, Any]],
        carry: Any,
        per_segment: tuple[Any, ...] | None = None,
        *,
        key: Key | None = None,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Fold `apply(layer, carry, inputs, key) -> (carry, output)` over all layers.

        Inputs and outputs are tuples of one pytree per segment, leaves `[layers of the segment, ...]`:
        segments may differ in shape (see `split` and `join_layers`).
        """
        outputs, start = [], 0
        inputs = per_segment or (None,) * len(self.counts)
        for segment, count, given in zip(self.segments, self.counts, inputs, strict=True):
            graphdef, params = nnx.split(segment)

            def body(carry: Any, xs: tuple, graphdef: Any = graphdef) -> tuple[Any, Any]:
                params, given, index = xs
                layer_key = None if key is None else jax.random.fold_in(key, index)
                return apply(nnx.merge(graphdef, params), carry, given, layer_key)

            indices = start + jnp.arange(count)
            kept = rematerialised(body, self.remat)
            carry, output = jax.lax.scan(kept, carry, (params, given, indices), unroll=min(self.unroll, count))
            outputs.append(output)
            start += count
        return carry, tuple(outputs)


def join_layers(outputs: tuple[Any, ...]) -> Any:
    """Join the outputs of all segments along the layer axis."""
    if len(outputs) == 1:
        return outputs[0]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)
