"""The convolution of one layer's shape, with its gradients, by implicit products.

The gradient of the input is the forward's product over grad_y, once for each parity of the input's
pixels: pixels h = s h' + r meet the taps i with s | r + pad - i d, and those meet row
h' + (r + pad - i d) / s.

Groups are multiplied several together, in slices of channels: one group fills neither a tile nor,
often, a vector. What would join channels of different groups are zeros among the packed weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.gpu import hopper, pooled_product
from npresnet_kernels.gpu.device import array_module, blocks, empty, launch, scalar_type
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.plan_layout import pad_channels
from npresnet_kernels.gpu.products import (
    MOST,
    Gather,
    GatherProduct,
    Space,
    element_type,
)
from npresnet_kernels.gpu.tiles import TILES
from npresnet_kernels.shapes import ConvShape

__all__ = ["Convolution", "applies"]

Tap = tuple[tuple[int, ...], Pair]
"""Places in the kernel (-1 for none) that a gathered pixel meets, and its delta."""


def applies(dtype: Any, shapes: Sequence[Shape]) -> bool:
    """Return whether these kernels compute a convolution between images (..., C, H, W).

    float64 is im2col's, and so are sizes that 32 bits don't count.
    """
    if dtype not in (np.float16, np.float32, np.uint16):
        return False
    if any(0 in shape for shape in shapes):
        return False
    return all(
        math.prod(shape[:-3]) * shape[-2] * shape[-1] <= MOST
        and (shape[-3] + 8) * shape[-2] * shape[-1] <= MOST
        for shape in shapes
    )


def window_taps(kernel: Pair, padding: Pair, dilation: Pair, fold: int = 1) -> tuple[Tap, ...]:
    """Return the taps of a window, row by row, for images whose rows are folded.

    Of a folded image ``fold`` neighbouring pixels of a row are one, with the channels of all.
    """
    reach = {j * dilation[1] - padding[1]: j for j in range(kernel[1])}
    taps: list[Tap] = []
    for i in range(kernel[0]):
        for dw in sorted({offset // fold for offset in reach}):
            columns = [reach.get(dw * fold + part) for part in range(fold)]
            places = tuple(-1 if j is None else i * kernel[1] + j for j in columns)
            taps.append((places, (i * dilation[0] - padding[0], dw)))
    return tuple(taps)


def parity_taps(
    parity: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tap, ...]:
    """Return the taps that input pixels of a parity meet, and the output pixels they lead to."""

    def along(axis: int) -> list[Pair]:
        reach = [
            (i, parity[axis] + padding[axis] - i * dilation[axis]) for i in range(kernel[axis])
        ]
        return [(i, r // stride[axis]) for i, r in reach if r % stride[axis] == 0]

    return tuple(
        ((i * kernel[1] + j,), (dh, dw))
        for (i, dh), (j, dw) in itertools.product(along(0), along(1))
    )


class _Scratch:
    """Hands out parts of the working memory, each at an address of whole vectors."""

    def __init__(self, memory: Array) -> None:
        self._bytes = memory.reshape(-1).view(np.uint8)
        self._used = 0

    def take(self, space: Space) -> Array:
        """Return an array for a space."""
        shape, dtype = space
        start = self._used
        stop = start + math.prod(shape) * np.dtype(dtype).itemsize
        self._used += _room(space)
        if self._used > self._bytes.size:
            raise DeviceError(
                f"a convolution needs {self._used} bytes of scratch, got {self._bytes.size}: give "
                "it scratch_floats of this batch"
            )
        part: Array = self._bytes[start:stop].view(dtype).reshape(shape)
        return part


def _room(*spaces: Space) -> int:
    """Bytes that spaces take up together."""
    sizes = (math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in spaces)
    return sum(-(-size // 256) * 256 for size in sizes)


def slices_of(channels: int, outs: int, groups: int, vector: int) -> int:
    """Return into how many slices the groups of a convolution are gathered.

    As many as leave whole vectors and the columns of the smallest tile on both sides of each.
    """
    least = min(tile.columns for tile in TILES)
    for slices in range(groups, 1, -1):
        if groups % slices == 0:
            ins, own = channels // slices, outs // slices
            if ins % vector == 0 and own % vector == 0 and min(ins, own) >= least:
                return slices
    return 1


class _Side(NamedTuple):
    """Rows or columns of packed weights.

    Attributes
    ----------
    total : int
        All there are.
    group : int
        Those of a group.
    wrap : int
        As many as the weights' array counts them by.
    step : int
        Elements from one to the next there.
    """

    total: int
    group: int
    wrap: int
    step: int


class _Packing:
    """How weights (O, C / groups, taps) become the rows (rows, places, padded) of a product."""

    def __init__(
        self, places: Iterable[int], rows: _Side, columns: _Side, padded: int, slices: int
    ) -> None:
        self.places: list[int] = list(places)
        self.rows, self.columns, self.padded, self.slices = rows, columns, padded, slices
        self.size = rows.total * len(self.places) * padded
        self.on_device: Array = array_module().asarray(np.array(self.places or [-1], np.int32))

    def write(self, weight: Array, out: Array) -> None:
        """Pack."""
        if self.size:
            sides = (self.rows, self.columns)
            of_slice = (side.total // self.slices for side in sides)
            groups, wraps, steps = zip(*(side[1:] for side in sides), strict=True)
            sizes = (self.rows.total, len(self.places), self.padded)
            sizes = (*sizes, *of_slice, *groups, *wraps, *steps)
            launch(
                "pack.cu",
                "pack_weight",
                blocks(self.size),
                (weight, out, self.on_device, *map(np.int32, sizes)),
                defines={"SCALAR": scalar_type(out), "FROM": scalar_type(weight)},
            )


class Convolution:
    """A convolution of one layer's shape; it knows neither batch nor weights.

    Arrays are dense, (N, H, W, C), and begin at addresses of 16 bytes. Nothing but :meth:`pack` and
    :meth:`pack_grad_input` without ``out`` allocates, and nothing waits for the device.

    Parameters
    ----------
    layer : ConvShape
        What is convolved, and how.
    dtype : dtype
        Of activations and packed weights: float32, float16, or uint16, which stores bfloat16. How
        float32 is multiplied is what :mod:`npresnet_kernels.gpu.precision` says now.
    algorithm : {"auto", "wgmma"}
        ``"wgmma"`` computes y and the gradient of the weights, and that of x where it can, as
        :class:`~npresnet_kernels.gpu.hopper.HopperProduct` does.

    Attributes
    ----------
    output : (int, int)
        (P, Q) of the output.
    input_channels : int
        Channels that x is gathered with, zeros behind the true ones. An x with fewer is copied.

    Raises
    ------
    DeviceError
        If the current device doesn't know bfloat16 or TF32; if ``"wgmma"`` can't compute y.
    """

    def __init__(self, layer: ConvShape, dtype: Any, algorithm: str = "auto") -> None:
        maps, weight, stride, padding, dilation, groups = layer
        self._algorithm = algorithm
        self._channels, height, width = maps
        self._outs, kernel = weight[0], layer.kernel
        self._taps = kernel[0] * kernel[1]
        self._kind = kind = element_type(dtype)
        self._size = (height, width)
        self.output = layer.output
        # few channels (a stem): two pixels make a vector, where windows begin at even ones
        even = width % 2 == 0 and stride[1] % 2 == 0
        fold = 2 if even and 2 * self._channels <= kind.vector and groups == 1 else 1
        self.input_channels = kind.padded(fold * self._channels) // fold
        self._padded_outs = kind.padded(self._outs)
        self._groups = groups
        self._slices = slices_of(self._channels, self._outs, groups, kind.vector)

        taps = window_taps(kernel, padding, dilation, fold)
        image = (height, width // fold, self.input_channels * fold)
        deltas = tuple(delta for _, delta in taps)
        own = image[2] // self._slices
        gather = Gather(image, own, deltas, self.output, (stride[0], stride[1] // fold))
        target = (*self.output, self._outs)
        if algorithm == "wgmma":
            hopper.require(kind.dtype, gather)
        self._forward = hopper.product(algorithm, kind, gather, target, slices=self._slices)
        padded = self._padded_outs // self._slices
        self._weight = hopper.weight_product(algorithm, kind, gather, padded, self._slices)
        rows, columns = self._sides(outs_first=True)
        places = [place for several, _ in taps for place in several]
        self._packing = _Packing(places, rows, columns, own // fold, self._slices)
        self.packed_size = self._packing.size

        self._parities: list[tuple[_Packing, GatherProduct]] = []
        for first in itertools.product(*map(range, stride)):
            met = parity_taps((first[0], first[1]), kernel, stride, padding, dilation)
            self._add_parity((first[0], first[1]), met, stride)
        self.packed_grad_size = sum(packing.size for packing, _ in self._parities)

    def why_not_wgmma(self) -> str | None:
        """Return why y isn't to be had by ``"wgmma"``, whatever the device; None if it is."""
        return hopper.why_not(self._kind.dtype, self._forward.gather)

    def _sides(self, outs_first: bool) -> tuple[_Side, _Side]:
        """Rows and columns of packed weights: outs and channels, or the other way round."""
        channels = self._channels // self._groups
        steps = channels * self._taps, self._taps
        outs = _Side(self._outs, self._outs // self._groups, self._outs, steps[0])
        ins = _Side(self._channels, channels, channels, steps[1])
        return (outs, ins) if outs_first else (ins, outs)

    def _add_parity(self, first: Pair, taps: tuple[Tap, ...], stride: Pair) -> None:
        height, width = self._size
        size = (-(-(height - first[0]) // stride[0]), -(-(width - first[1]) // stride[1]))
        if min(size) < 1:
            return
        deltas = tuple(delta for _, delta in taps)
        own = self._padded_outs // self._slices
        gather = Gather((*self.output, self._padded_outs), own, deltas, size, (1, 1))
        places = [place for several, _ in taps for place in several]
        packing = _Packing(places, *self._sides(outs_first=False), own, self._slices)
        target = (height, width, self._channels)
        places_of = {"step": stride, "first": first, "slices": self._slices}
        product = hopper.product(self._algorithm, self._kind, gather, target, **places_of)
        self._parities.append((packing, product))

    def _x_space(self, batch: int) -> Space:
        return (batch, *self._size, self.input_channels), self._kind.dtype

    def _grad_space(self, batch: int) -> Space:
        return (batch, *self.output, self._padded_outs), self._kind.dtype

    def scratch_floats(
        self,
        threads: int,
        training: bool = False,
        batch: int = 1,
        channels: int | None = None,
        converts: bool = False,
    ) -> int:
        """Return how many float32 of scratch memory the calls need for a batch, or a smaller one.

        ``channels`` are those that x comes with; with ``converts`` x and grad_y may be float32.
        """
        given = self._channels if channels is None else channels
        x = [self._x_space(batch)] if converts or given != self.input_channels else []
        if not training:
            return _room(*x) // 4
        grad_y = [self._grad_space(batch)] if converts or self._outs != self._padded_outs else []
        needs = (
            _room(*x, *self._forward.moment_spaces(batch)),
            _room(*grad_y),
            _room(*x, *grad_y, self._weight.space(batch)),
        )
        return max(needs) // 4

    def pack(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights, dense, float32 or of the dtype, as ``forward`` reads them.

        ``out`` has the dtype and ``packed_size`` elements or more.
        """
        packed = self._given(out, self.packed_size)
        self._packing.write(weight, packed)
        return packed

    def pack_grad_input(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights as ``grad_input`` reads them; ``packed_grad_size`` elements."""
        packed = self._given(out, self.packed_grad_size)
        start = 0
        for packing, _ in self._parities:
            own = packed[start : start + packing.size]
            packing.write(weight, own)
            start += packing.size
        return packed

    def _given(self, out: Array | None, size: int) -> Array:
        packed: Array = empty((size,), self._kind.dtype) if out is None else out.reshape(-1)[:size]
        return packed

    def _operand(self, x: Array, space: Space, scratch: _Scratch) -> Array:
        """``x`` as it is gathered: itself, or a copy with its type and whole vectors."""
        if x.dtype == self._kind.dtype and x.shape[3] == space[0][3]:
            return x
        copy = scratch.take(space)
        pad_channels(x, copy)
        return copy

    def _operand_x(self, x: Array, scratch: _Scratch) -> Array:
        return self._operand(x, self._x_space(len(x)), scratch)

    def _operand_grad(self, grad_y: Array, scratch: _Scratch) -> Array:
        return self._operand(grad_y, self._grad_space(len(grad_y)), scratch)

    def forward(
        self,
        x: Array,
        packed: Array,
        y: Array,
        scratch: Array,
        bias: Array | None = None,
        residual: Array | None = None,
        relu: bool = False,
        moments: Array | None = None,
        scale: Array | None = None,
    ) -> None:
        """Write y = relu(conv(x) * scale + bias + residual).

        ``scale`` and ``bias`` are (O,) float32. ``moments``, (2, O) float32, gets means and biased
        variances of conv(x) + bias, before it is rounded to the dtype; it is asked for without
        ``scale``.
        """
        room = _Scratch(scratch)
        image = self._operand_x(x, room)
        parts = joined = None
        if moments is not None:
            spaces = self._forward.moment_spaces(len(x))
            parts, joined = (room.take(space) for space in spaces)
        self._forward.run(
            image, packed, y, scale=scale, bias=bias, residual=residual, relu=relu, parts=parts
        )
        if moments is not None and parts is not None and joined is not None:
            self._forward.finish_moments(len(x), parts, joined, bias, moments)

    def pays_pooled(self, window: int, stride: int, padding: int) -> bool:
        """Return whether :meth:`forward_pooled` is faster than a max pool behind ``forward``."""
        return pooled_product.pays(self._forward, window, stride, padding)

    def forward_pooled(
        self,
        x: Array,
        packed: Array,
        y: Array,
        scratch: Array,
        bias: Array | None = None,
        relu: bool = False,
        *,
        window: int,
        stride: int,
        padding: int,
    ) -> None:
        """Write the max pool of relu(conv(x) + bias), the bits that two kernels would write."""
        image = self._operand_x(x, _Scratch(scratch))
        rule = window, stride, padding
        pooled_product.run(self._forward, image, packed, y, bias, relu, *rule)

    def grad_input(
        self,
        grad_y: Array,
        packed_grad: Array,
        grad_x: Array,
        scratch: Array,
        accumulate: bool = False,
    ) -> None:
        """Write the gradient of x, or add it to what is there: a product for each parity."""
        image = self._operand_grad(grad_y, _Scratch(scratch))
        start = 0
        for packing, product in self._parities:
            own = packed_grad[start : start + packing.size]
            start += packing.size
            if packing.size or not accumulate:  # pixels that no tap reaches get zeros
                product.run(image, own, grad_x, residual=grad_x if accumulate else None)

    def grad_weight(self, x: Array, grad_y: Array, grad_weight: Array, scratch: Array) -> None:
        """Write the gradient of the weights, dense, float32 or of the dtype."""
        room = _Scratch(scratch)
        image, grad = self._operand_x(x, room), self._operand_grad(grad_y, room)
        parts = room.take(self._weight.space(len(x)))
        places = self._packing.on_device
        self._weight.run(image, grad, parts, places, grad_weight, self._groups)
