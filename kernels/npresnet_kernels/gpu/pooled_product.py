"""A convolution and the max pool behind it in one kernel: where that saves more than it costs."""

from __future__ import annotations

import math

import numpy as np

from npresnet_kernels.contract import Array, Pair
from npresnet_kernels.gpu.device import launch, scalar_type
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.products import GatherProduct
from npresnet_kernels.gpu.tiles import Tile
from npresnet_kernels.shapes import conv_output_size

__all__ = ["PATCH", "TILE", "pays", "run", "squares"]

PATCH = 16
"""Pixels of the convolution, down and across, that a block computes."""

TILE = Tile(PATCH * PATCH, 64)

PITCH = TILE.columns + 8
"""Elements of the patch in shared memory from one pixel to the next."""

WASTE = 150
"""Products that may be computed twice for each element of the map between.

That map is written and read: twice 2 bytes in 16 bits, the time of some 300 products on an H100
(3.35 TB/s; 500 TFLOP/s by ``mma.sync``). TF32 has twice the bytes and half the products a second.
"""


def squares(pooled: Pair, window: int, stride: int) -> tuple[int, int, int]:
    """Return the side of a block's square of pooled pixels, and how many are down and across."""
    side = (PATCH - window) // stride + 1
    return side, -(-pooled[0] // side), -(-pooled[1] // side)


def pays(product: GatherProduct, window: int, stride: int, padding: int) -> bool:
    """Return whether a max pool is to be computed with the convolution before it.

    By the shape alone: the edges of patches are computed by two blocks, which costs least where a
    pixel is the sum of few products, as in a stem.
    """
    gather = product.gather
    if not _can(product, window):
        return False
    pooled = conv_output_size(gather.size, *((n, n) for n in (window, stride, padding, 1)))
    _, down, across = squares(pooled, window, stride)
    computed = down * across * TILE.rows
    depth = len(gather.deltas) * gather.own
    return depth * (computed / math.prod(gather.size) - 1) <= WASTE


def _can(product: GatherProduct, window: int) -> bool:
    whole_vectors = product.target[2] % product.kind.vector == 0
    return not product.kind.exact and product.slices == 1 and whole_vectors and window <= PATCH


def run(
    product: GatherProduct,
    x: Array,
    weight: Array,
    y: Array,
    bias: Array | None,
    relu: bool,
    window: int,
    stride: int,
    padding: int,
) -> None:
    """Write the maximum over windows of relu(product + bias), NaN where a window has one.

    Raises
    ------
    DeviceError
        For exact float32, channels in slices or short of whole vectors, windows beyond a patch.
    """
    if not _can(product, window):
        raise DeviceError("this convolution can't take a max pool in: ask pays_pooled")
    kind, gather, columns = product.kind, product.gather, product.target[2]
    side, down, across = squares((y.shape[1], y.shape[2]), window, stride)
    vectors = len(gather.deltas) * gather.own // kind.vector
    sizes = (columns, vectors, *gather.image, *gather.size, *gather.step, *y.shape[1:3])
    patch = TILE.rows * PITCH * kind.dtype.itemsize
    launch(
        "pooled_product.cu",
        "pooled_product",
        (len(x) * down * across, -(-columns // TILE.columns)),
        (
            *(x, weight, y, product.table, bias),
            *map(np.int32, (relu, *sizes, window, stride, padding, side)),
        ),
        block=(TILE.threads,),
        shared=max(TILE.shared(3), patch),
        defines=kind.defines(TILE, x, RESULT=scalar_type(y)),
    )
