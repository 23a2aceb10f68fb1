"""Implicit products: matrices that are gathered from images as they are multiplied, never stored.

With rows m = (n, p, q) and k = (tap, c), y[m, o] is the sum over k of x[n, p s + dh, q s + dw, c]
W[o, k] (Chetlur et al. 2014, *cuDNN: Efficient Primitives for Deep Learning*). What doesn't depend
on the batch is worked out once; a run allocates nothing and waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.gpu.device import array_module, blocks, launch, scalar_type
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.precision import get_precision
from npresnet_kernels.gpu.tiles import TILES, Tile, choose_tile, share_of, stage_depth

__all__ = ["MOST", "Gather", "GatherProduct", "Space", "WeightProduct", "element_type"]

MOST = 2**31 - 2**20
"""Pixels of a batch, and elements of one image, that the kernels' 32-bit integers count."""

JOINED = 256
"""Blocks whose moments one thread joins."""

Space = tuple[Shape, Any]
"""Shape and dtype of a part of the working memory."""


class ElementType(NamedTuple):
    """What a product's operands are, and how they are multiplied.

    Attributes
    ----------
    dtype : dtype
        float32, float16, or uint16, which stores bfloat16.
    exact : bool
        Whether products of float32 are float32's; else they are TF32's.
    """

    dtype: Any
    exact: bool

    @property
    def vector(self) -> int:
        """Elements in the 16 bytes that a thread copies."""
        return 16 // int(self.dtype.itemsize)

    def padded(self, channels: int) -> int:
        """Return the channels in whole vectors."""
        return -(-channels // self.vector) * self.vector

    def defines(self, tile: Tile, operand: Array, **more: str) -> dict[str, str | int]:
        """Return the macros of a kernel."""
        sizes = {"EXACT": int(self.exact), "TILE_M": tile.rows, "TILE_N": tile.columns}
        return {"SCALAR": scalar_type(operand), **sizes, **more}


def element_type(dtype: Any) -> ElementType:
    """Return how a dtype is multiplied in the precision of now.

    Raises
    ------
    DeviceError
        If the current device can't.
    """
    stored = np.dtype(dtype)
    kind = ElementType(stored, bool(stored == np.float32 and get_precision() == "fp32"))
    if kind.dtype != np.float16 and not kind.exact:
        capability = int(array_module().cuda.Device().compute_capability)
        if capability < 80:
            wanted, cure = ("TF32", "fp32") if kind.dtype == np.float32 else ("bfloat16", "fp16")
            raise DeviceError(
                f"{wanted} needs a GPU of compute capability 8.0, this one has "
                f'{capability / 10:.1f}: use precision="{cure}"'
            )
    return kind


class Gather(NamedTuple):
    """Where the rows of a gathered matrix lie in images.

    Attributes
    ----------
    image : tuple of int
        (H, W, channels).
    own : int
        Channels that a row gathers of each pixel, in whole vectors: those of a slice.
    deltas : tuple of (int, int)
        Pixels of each tap relative to a row's first pixel.
    size : (int, int)
        Rows an image, (P, Q).
    step : (int, int)
        Pixels between neighbouring rows' first pixels.
    """

    image: tuple[int, int, int]
    own: int
    deltas: tuple[Pair, ...]
    size: Pair
    step: Pair

    def rows(self, batch: int) -> int:
        """Return the rows of a batch."""
        return batch * self.size[0] * self.size[1]

    def table(self, vector: int) -> Array:
        """Return (taps * own / vector, 4) int32: dh, dw, the offset in elements, 0."""
        _, width, channels = self.image
        table = np.zeros((len(self.deltas), self.own // vector, 4), np.int32)
        for row, (dh, dw) in zip(table, self.deltas, strict=True):
            row[:, 0], row[:, 1] = dh, dw
            row[:, 2] = (dh * width + dw) * channels + np.arange(0, self.own, vector)
        return table.reshape(-1, 4)

    def table_on_device(self, vector: int) -> Array:
        """Return the table on the current device; an empty one has a row, so an address."""
        made = self.table(vector)
        on_device: Array = array_module().asarray(made if len(made) else np.zeros((1, 4), np.int32))
        return on_device


def _integers(*values: int) -> Sequence[Any]:
    return [np.int32(v) for v in values]


class GatherProduct:
    """Rows of images times weights.

    Parameters
    ----------
    kind : ElementType
        Of x and the weights.
    gather : Gather
        What x is gathered by.
    target : tuple of int
        (H, W, O) of the images that are written.
    step, first : (int, int)
        Row (p, q) goes to pixel (p, q) * step + first of them.
    slices : int
        Into which channels are cut: each of x's makes one of y's.
    """

    def __init__(
        self,
        kind: ElementType,
        gather: Gather,
        target: tuple[int, int, int],
        step: Pair = (1, 1),
        first: Pair = (0, 0),
        slices: int = 1,
    ) -> None:
        self.kind, self.gather, self.slices = kind, gather, slices
        self.target, self.step, self.first = target, step, first
        self.table = gather.table_on_device(kind.vector)

    def _tile(self, batch: int) -> Tile:
        if self.target[:2] == (1, 1):  # rows are few, and float32 is made of 16 bits here alone
            return TILES[-1]
        return choose_tile(self.gather.rows(batch), self._columns, self.slices)

    @property
    def _columns(self) -> int:
        """Columns of a slice."""
        return self.target[2] // self.slices

    def moment_spaces(self, batch: int) -> tuple[Space, Space]:
        """Return what moments need: a pair for each block's column, and the same joined."""
        columns = self.target[2]
        down, _ = self._tile(batch).grid(self.gather.rows(batch), columns)
        groups = -(-down // JOINED)
        return ((down, 2, columns), np.float32), ((groups, 2, columns), np.float64)

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
        """Write y = relu(product * scale + bias + residual); residual may be y.

        ``parts``, of :meth:`moment_spaces`, gets each block's moments of the product.
        """
        rows, columns = self.gather.rows(len(x)), self._columns
        tile = self._tile(len(x))
        vectors = len(self.gather.deltas) * self.gather.own // self.kind.vector
        sizes = (rows, columns, vectors, *self.gather.image, self.gather.own, *self.gather.size)
        places = (*self.gather.step, *self.target[:2], *self.step, *self.first)
        launch(
            "gather_product.cu",
            "gather_product",
            (*tile.grid(rows, columns), self.slices),
            (
                *(x, weight, y, self.table, scale, bias, residual, parts),
                *_integers(relu, *sizes, *places),
            ),
            block=(tile.threads,),
            shared=tile.shared(3),
            defines=self.kind.defines(tile, x, RESULT=scalar_type(y)),
        )

    def finish_moments(
        self, batch: int, parts: Array, joined: Array, bias: Array | None, moments: Array
    ) -> None:
        """Write means, ``bias`` among them, and biased variances: (2, O) float32."""
        rows, columns = self.gather.rows(batch), self.target[2]
        groups, (across,) = len(joined), blocks(columns, 64)
        defines = {"SCALAR": "float", "RESULT": "float"}
        sizes = _integers(len(parts), rows, columns, self._tile(batch).rows, JOINED)
        launch(
            "parts.cu",
            "join_moments",
            (across, groups),
            (parts, joined, *sizes),
            block=(64,),
            defines=defines,
        )
        launch(
            "parts.cu",
            "finish_moments",
            (across,),
            (joined, bias, moments, *_integers(groups, rows, columns)),
            block=(64,),
            defines=defines,
        )


class WeightProduct:
    """The sum over rows of grad_y times what was gathered: the gradient of the weights.

    Parameters
    ----------
    kind : ElementType
        Of x and grad_y.
    gather : Gather
        What x is gathered by.
    outs : int
        Channels of grad_y that a slice has, in whole vectors.
    slices : int
        As in :class:`GatherProduct`.
    """

    def __init__(self, kind: ElementType, gather: Gather, outs: int, slices: int = 1) -> None:
        self.kind, self.gather, self.outs, self.slices = kind, gather, outs, slices
        self.table = gather.table_on_device(kind.vector)
        self.width = len(gather.deltas) * gather.own

    def _tile(self, batch: int) -> tuple[Tile, int, int]:
        """The tile, how many of them there are, and the stages of the whole sum."""
        stages = -(-self.gather.rows(batch) // stage_depth(self.kind.dtype.itemsize))
        tile = choose_tile(self.outs, self.width, stages // 8 * self.slices)
        return tile, math.prod(tile.grid(self.outs, self.width)), stages

    def _shares(self, batch: int) -> tuple[Tile, int, int]:
        """The tile, the stages of a share, and how many shares there are."""
        tile, tiles, stages = self._tile(batch)
        share = share_of(tiles * self.slices, stages)
        return tile, share, -(-stages // share)

    def space(self, batch: int) -> Space:
        """Return what the shares of the sum need."""
        return (self.slices * self._shares(batch)[2], self.outs, self.width), np.float32

    def run(
        self, x: Array, grad_y: Array, parts: Array, places: Array, grad: Array, groups: int = 1
    ) -> None:
        """Write the gradient, (O, C / groups, kH, kW), O and C perhaps short of whole vectors.

        ``places`` (int32) tells for each piece of the width which tap of the kernel it is.
        """
        self._multiply(x, grad_y, parts)
        count = self._shares(len(x))[2]
        rows, channels, *kernel = grad.shape
        own = self.width // len(places)
        of_slice, group = rows // self.slices, rows // groups
        sums = (self.slices, count, of_slice, len(places), own, group, channels)
        launch(
            "parts.cu",
            "add_parts",
            blocks(rows * self.width),
            (
                *(parts, grad, places, self.outs * self.width),
                *_integers(*sums, kernel[0] * kernel[1]),
            ),
            defines={"SCALAR": "float", "RESULT": scalar_type(grad)},
        )

    def _multiply(self, x: Array, grad_y: Array, parts: Array) -> None:
        """Write the shares of the sum."""
        tile, share, count = self._shares(len(x))
        down, across = tile.grid(self.outs, self.width)
        vectors = self.width // self.kind.vector
        outs = self.outs, self.slices * self.outs
        sizes = (self.gather.rows(len(x)), *outs, vectors, *self.gather.image, self.gather.own)
        launch(
            "weight_product.cu",
            "weight_product",
            (across, down, self.slices * count),
            (
                *(x, grad_y, parts, self.table),
                *_integers(*sizes, *self.gather.size, *self.gather.step, share, count),
            ),
            block=(tile.threads,),
            shared=tile.shared(2),
            defines=self.kind.defines(tile, x),
        )
