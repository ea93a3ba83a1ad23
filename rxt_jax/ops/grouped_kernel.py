"""Products of tiles with the kernels of their experts, by JAX's Pallas kernel for TPUs (megablox).

The blocks of `ops/routing.py` gather a copy of a kernel per tile; this kernel reads each expert's where it is. On a TPU
it takes a fifth of the scratch memory and a third of the traffic of a layer with 384 experts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["kernel_slopes", "kernels_run_here", "multiply_tiles", "tile_slopes"]

_TILE = 512  # rows, and at most as many of the other two dimensions


def kernels_run_here() -> bool:
    """Say whether what is traced may be a TPU kernel: one device's work, for the partitioner cannot split a kernel.

    That is the inside of `row_sharding.map_rows` on a mesh of TPUs, or a process with one TPU.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "tpu" and jax.device_count() == 1
    device = mesh.abstract_device
    return mesh.are_all_axes_manual and device is not None and device.platform == "tpu"


def multiply_tiles(
    tiles: Float[Array, "P b D"], kernels: Float[Array, "E D F"], tile_expert: Int[Array, "P"], interpret: bool = False
) -> Float[Array, "P b F"]:
    """Multiply every tile with the kernel of its expert; tiles of an expert are neighbours, in the order of experts."""
    return _product(tiles, kernels, tile_expert, False, interpret)


def tile_slopes(
    slope: Float[Array, "P b F"], kernels: Float[Array, "E D F"], tile_expert: Int[Array, "P"], interpret: bool = False
) -> Float[Array, "P b D"]:
    """Return the slopes of the tiles of `multiply_tiles`."""
    return _product(slope, kernels, tile_expert, True, interpret)


def kernel_slopes(
    tiles: Float[Array, "P b D"],
    slope: Float[Array, "P b F"],
    tile_expert: Int[Array, "P"],
    num_experts: int,
    interpret: bool = False,
) -> Float[Array, "E D F"]:
    """Return the slopes of the kernels of `multiply_tiles`, float32 from product to sum."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm  # imported where it runs: Pallas takes a while

    rows, sizes = _rows(tiles, tile_expert, num_experts)
    slopes, _ = _rows(slope, tile_expert, num_experts)
    return tgmm(rows.T, slopes, sizes, jnp.float32, _tiling, num_actual_groups=num_experts, interpret=interpret)


def _product(tiles: Array, kernels: Array, tile_expert: Array, transposed: bool, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    rows, sizes = _rows(tiles, tile_expert, len(kernels))
    result = gmm(rows, kernels, sizes, tiles.dtype, _tiling, transpose_rhs=transposed, interpret=interpret)
    count = tiles.shape[0] * tiles.shape[1]
    return result[:count].reshape(*tiles.shape[:2], -1)


def _rows(tiles: Array, tile_expert: Array, num_experts: int) -> tuple[Array, Array]:
    """Put tiles behind one another, filled up to whole tiles of the kernel, and count the rows of every expert."""
    rows = tiles.reshape(-1, tiles.shape[-1])
    count = len(rows)
    filling = -count % min(_TILE, max(count, 128))
    sizes = jnp.bincount(tile_expert, length=num_experts) * tiles.shape[1]
    sizes = sizes.at[-1].add(filling)  # rows of no expert would be left as the memory was
    return jnp.pad(rows, ((0, filling), (0, 0))), sizes.astype(jnp.int32)


def _tiling(rows: int, inputs: int, outputs: int) -> tuple[int, int, int]:
    return min(_TILE, rows), min(_TILE, inputs), min(_TILE, outputs)
