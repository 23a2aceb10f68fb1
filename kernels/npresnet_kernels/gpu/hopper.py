"""Products of 16-bit images on compute capability 9.0: TMA brings operands, wgmma multiplies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet_kernels.contract import Array, Pair
from npresnet_kernels.gpu.device import array_module, launch, scalar_type
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.products import ElementType, Gather, GatherProduct, WeightProduct
from npresnet_kernels.gpu.tensor_map import ROW_BYTES, box_map, pixel_map
from npresnet_kernels.gpu.tiles import Tile

__all__ = [
    "HopperProduct",
    "HopperWeightProduct",
    "product",
    "require",
    "require_device",
    "weight_product",
    "why_not",
]

NARROW, WIDE = Tile(128, 64), Tile(128, 128)

STAGES = {NARROW: 4, WIDE: 3}
"""96 KiB either way: two blocks share a multiprocessor."""

DEPTH = ROW_BYTES // 2
"""Numbers of the sum in a stage."""

THREADS = 256 + 32
"""Two groups of four warps that multiply, and a warp that copies."""

MULTIPROCESSORS = 132
"""Of an H100 or H200."""


def require_device(dtype: Any) -> None:
    """Raise :class:`DeviceError` unless the current device multiplies a dtype by wgmma here."""
    capability = int(array_module().cuda.Device().compute_capability)
    if capability != 90:
        raise DeviceError(
            'algorithm="wgmma" needs a GPU of compute capability 9.0 (H100, H200), this one has '
            f'{capability / 10:.1f}: use algorithm="auto"'
        )
    if dtype not in (np.float16, np.uint16):
        raise DeviceError(
            f'algorithm="wgmma" needs float16 or bfloat16, got {np.dtype(dtype)}: use '
            'precision="fp16" or "bf16"'
        )


def require(dtype: Any, gather: Gather) -> None:
    """Raise :class:`DeviceError` unless a product is to be had by wgmma on the current device."""
    require_device(dtype)
    reason = why_not(dtype, gather)
    if reason is not None:
        raise DeviceError(f'algorithm="wgmma" can\'t compute this: {reason}: use algorithm="auto"')


def why_not(dtype: Any, gather: Gather) -> str | None:
    """Return why a product isn't to be had by wgmma; None if it is."""
    if dtype not in (np.float16, np.uint16):
        return f"it has {np.dtype(dtype)}"
    if gather.own % (ROW_BYTES // 2):
        return f"channels must be a multiple of {ROW_BYTES // 2}, got {gather.own}"
    if not gather.deltas:
        return "there is nothing to add up"
    for axis in range(2):
        places = [delta[axis] for delta in gather.deltas]
        low, step = min(places), gather.step[axis]
        high = low + step * (gather.size[axis] - 1) - (gather.image[axis] - 1)
        if max(places) - low > 255 or step > 8 or not -128 <= low <= 127 or not -128 <= high <= 127:
            return "its windows reach further than copies of pixels do"
    return None


class HopperProduct(GatherProduct):
    """Rows of images times weights, as its parent computes it; see :func:`why_not`."""

    def _tile(self, batch: int) -> Tile:
        columns = self._columns
        down, across = WIDE.grid(self.gather.rows(batch), columns)
        filled = down * across * self.slices >= MULTIPROCESSORS
        return WIDE if columns > NARROW.columns and filled else NARROW

    def run(
        self,
        x: Array,
        weight: Array,
        y: Array,
        *,
        scale: Array | None = None,
        bias: Array | None = None,
        residual: Array | None = None,
        relu: bool = False,
        parts: Array | None = None,
    ) -> None:
        """Write y; as its parent's, but for a DeviceError where the driver refuses a map."""
        gather, tile = self.gather, self._tile(len(x))
        rows, columns, own = gather.rows(len(x)), self._columns, gather.own
        low = _low(gather)
        width = len(gather.deltas) * own
        images = pixel_map(x, low, gather.size, gather.step, tile.rows)
        weights = box_map(weight, (self.target[2], width), tile.columns)
        sizes = (rows, columns, width * 2 // ROW_BYTES, own, *low, *gather.size)
        places = (*gather.step, *self.target[:2], *self.step, *self.first)
        _launch(
            "hopper_product",
            (*tile.grid(rows, columns), self.slices),
            (images, weights, y, self.table, scale, bias, residual, parts),
            (relu, *sizes, *places),
            tile,
            {"SCALAR": scalar_type(x), "RESULT": scalar_type(y)},
        )


class HopperWeightProduct(WeightProduct):
    """The gradient of the weights, as its parent computes it; x as for :func:`why_not`."""

    def _tile(self, batch: int) -> tuple[Tile, int, int]:
        tile = NARROW if self.outs <= NARROW.columns else WIDE
        stages = -(-self.gather.rows(batch) // DEPTH)
        return tile, math.prod(tile.grid(self.width, self.outs)), stages

    def _multiply(self, x: Array, grad_y: Array, parts: Array) -> None:
        gather, rows = self.gather, self.gather.rows(len(x))
        tile, share, count = self._shares(len(x))
        low = _low(gather)
        images = pixel_map(x, low, gather.size, gather.step, DEPTH)
        grads = box_map(grad_y, (rows, grad_y.shape[3]), DEPTH)
        sizes = (self.outs, self.width, gather.own, *low, *gather.size, *gather.step)
        _launch(
            "hopper_weight",
            (*tile.grid(self.width, self.outs), self.slices * count),
            (images, grads, parts, self.table),
            (*sizes, -(-rows // DEPTH), share, count),
            tile,
            {"SCALAR": scalar_type(x)},
        )


def _low(gather: Gather) -> Pair:
    """Where the box of an image's pixels begins."""
    return min(h for h, _ in gather.deltas), min(w for _, w in gather.deltas)


def _launch(
    kernel: str,
    grid: tuple[int, int, int],
    arrays: Sequence[Any],
    sizes: Sequence[int],
    tile: Tile,
    types: dict[str, str],
) -> None:
    stages = STAGES[tile]
    launch(
        f"{kernel}.cu",
        kernel,
        grid,
        (*arrays, *map(np.int32, sizes)),
        block=(THREADS,),
        shared=stages * ((tile.rows + tile.columns) * ROW_BYTES + 2 * 8),
        defines={**types, "STAGES": stages, "TILE_M": tile.rows, "TILE_N": tile.columns},
        architecture="sm_90a",
    )


def product(
    algorithm: str, kind: ElementType, gather: Gather, target: tuple[int, int, int], **more: Any
) -> GatherProduct:
    """Return a product, by wgmma if that is the ``algorithm`` and takes it."""
    taken = algorithm == "wgmma" and why_not(kind.dtype, gather) is None
    return (HopperProduct if taken else GatherProduct)(kind, gather, target, **more)


def weight_product(
    algorithm: str, kind: ElementType, gather: Gather, outs: int, slices: int
) -> WeightProduct:
    """Return the gradient of the weights, likewise."""
    taken = algorithm == "wgmma" and why_not(kind.dtype, gather) is None
    return (HopperWeightProduct if taken else WeightProduct)(kind, gather, outs, slices)
