"""Pooling: the maximum or the mean of each window, and the gradients."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from npresnet_kernels.contract import Array, Pair, Shape
from npresnet_kernels.gpu.device import array_module, blocks, launch, scalar_type
from npresnet_kernels.gpu.memory import contiguous, new_image
from npresnet_kernels.shapes import pool_output_size
from npresnet_kernels.windows import Bounds, adaptive_windows, average_windows

__all__ = [
    "MeanPool",
    "adaptive_average_pool",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_grad",
    "average_pool",
    "avg_pool2d",
    "avg_pool2d_grad",
    "max_pool2d",
    "max_pool2d_grad",
]


def _sizes(*pairs: tuple[int, ...]) -> tuple[np.int32, ...]:
    return tuple(np.int32(n) for pair in pairs for n in pair)


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Values and the places of the maxima in their input planes."""
    x = contiguous(x)
    n, c, h, w = x.shape
    out = pool_output_size((h, w), kernel_size, stride, padding, dilation, ceil_mode)
    y, indices = new_image((n, c, *out), x.dtype), new_image((n, c, *out), np.int64)
    if y.size:
        sizes = _sizes((h, w), out, kernel_size, stride, padding, dilation)
        defines = {"SCALAR": scalar_type(x)}
        launch(
            "pool.cu", "max_pool", blocks(y.size), (x, y, indices, n, c, *sizes), defines=defines
        )
    return y, indices


def max_pool2d_grad(
    grad_output: Array,
    indices: npt.NDArray[np.int64],
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Array:
    """Each input pixel gathers the gradients of the windows whose maximum it is."""
    grad_output, indices = contiguous(grad_output), contiguous(indices)
    n, c, h, w = input_shape
    grad_input = new_image(input_shape, grad_output.dtype)
    if grad_input.size:
        out = grad_output.shape[2:]
        sizes = _sizes((h, w), out, kernel_size, stride, padding, dilation)
        arguments = (grad_output, indices, grad_input, n, c, *sizes)
        defines = {"SCALAR": scalar_type(grad_input)}
        launch("pool.cu", "max_pool_grad", blocks(grad_input.size), arguments, defines=defines)
    return grad_input


class MeanPool:
    """Means over rectangles of one geometry, whose edges lie in small arrays on a device.

    Maps are dense (N, H, W, C). Nothing is allocated by :meth:`forward` and :meth:`backward`.
    """

    def __init__(self, rows: Bounds, cols: Bounds, divisor: Array, size: Pair) -> None:
        xp = array_module()
        self.size, self.output = size, divisor.shape
        self._divisor = xp.asarray(divisor)
        self._pixels = [xp.asarray(edge) for axis in (rows, cols) for edge in axis]
        # for each pixel of an axis the windows [low, high) that hold it, empty ones left out
        self._windows = [
            xp.asarray(edge)
            for n, (begin, end) in zip(size, (rows, cols), strict=True)
            for edge in (
                np.searchsorted(end, np.arange(n), side="right"),
                np.searchsorted(begin, np.arange(n), side="right"),
            )
        ]

    def _run(self, kernel: str, given: Array, made: Array, edges: list[Array]) -> None:
        if made.size:
            images, channels = made.shape[0], made.shape[3]
            sizes = (images, channels, *_sizes(self.size, self.output))
            arguments = (given, made, *edges, self._divisor, *sizes)
            defines = {"SCALAR": scalar_type(made)}
            launch("pool.cu", kernel, blocks(made.size), arguments, defines=defines)

    def forward(self, x: Array, y: Array) -> None:
        """Write the means."""
        self._run("mean_pool", x, y, self._pixels)

    def backward(self, grad_y: Array, grad_x: Array) -> None:
        """Each pixel gathers grad_y / divisor over the windows that hold it."""
        self._run("mean_pool_grad", grad_y, grad_x, self._windows)


@functools.lru_cache(maxsize=64)
def _average(xp: object, device: int, size: Pair, *options: object) -> MeanPool:
    return MeanPool(*average_windows(size, *options), size)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def _adaptive(xp: object, device: int, size: Pair, output_size: Pair) -> MeanPool:
    return MeanPool(*adaptive_windows(size, output_size), size)


def _here() -> tuple[object, int]:
    """The array module and the current device: what cached arrays belong to."""
    xp = array_module()
    return xp, int(xp.cuda.runtime.getDevice())


def average_pool(size: Pair, *options: object) -> MeanPool:
    """Return the pool of :func:`avg_pool2d`, whose options it takes, for maps of a size."""
    return _average(*_here(), size, *options)


def adaptive_average_pool(size: Pair, output_size: Pair) -> MeanPool:
    """Return the pool of :func:`adaptive_avg_pool2d` for maps of a size."""
    return _adaptive(*_here(), size, output_size)


def _mean(x: Array, pool: MeanPool) -> Array:
    x = contiguous(x)
    y = new_image((*x.shape[:2], *pool.output), x.dtype)
    pool.forward(x.transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1))
    return y


def _mean_grad(grad_output: Array, input_shape: Shape, pool: MeanPool) -> Array:
    grad_output = contiguous(grad_output)
    grad_input = new_image(input_shape, grad_output.dtype)
    pool.backward(grad_output.transpose(0, 2, 3, 1), grad_input.transpose(0, 2, 3, 1))
    return grad_input


def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """Mean over windows, torch's rules for the divisor."""
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _mean(x, average_pool((x.shape[2], x.shape[3]), *options))


def avg_pool2d_grad(
    grad_output: Array,
    input_shape: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """Each pixel gathers grad_y / divisor over the windows that hold it."""
    size = (input_shape[2], input_shape[3])
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _mean_grad(grad_output, input_shape, average_pool(size, *options))


def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
    """Mean over windows whose number is given."""
    return _mean(x, adaptive_average_pool((x.shape[2], x.shape[3]), output_size))


def adaptive_avg_pool2d_grad(grad_output: Array, input_shape: Shape) -> Array:
    """Each pixel gathers grad_y / area over the windows that hold it."""
    size = (input_shape[2], input_shape[3])
    output_size = (grad_output.shape[2], grad_output.shape[3])
    return _mean_grad(grad_output, input_shape, adaptive_average_pool(size, output_size))
