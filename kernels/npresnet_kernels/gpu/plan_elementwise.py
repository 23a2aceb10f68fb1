"""Operations that stand alone in a plan: ReLU, sigmoid, products with few numbers, joined maps."""

from __future__ import annotations

import math

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import blocks, launch
from npresnet_kernels.gpu.plan_layout import MOST_IMAGES
from npresnet_kernels.gpu.vectors import RESIDENT, channel_blocks, defines_of, int32, vector_of

__all__ = [
    "gate",
    "gate_grad",
    "move_channels",
    "relu",
    "relu_grad",
    "scale",
    "sigmoid",
    "sigmoid_grad",
]

SOURCE = "plan_elementwise.cu"


def _elementwise(kernel: str, *arrays: Array) -> None:
    """Run a kernel over arrays of one size and element type; the last one is written."""
    out = arrays[-1]
    if not out.size:
        return
    vector = vector_of(out.size, *arrays)
    total = out.size // vector
    launch(SOURCE, kernel, blocks(total), (*arrays, total), defines=defines_of(out, vector))


def relu(x: Array, y: Array) -> None:
    """max(x, 0); ``y`` may be ``x``."""
    _elementwise("relu", x, y)


def relu_grad(grad_y: Array, y: Array, grad_x: Array) -> None:
    """Gradient of :func:`relu`; ``grad_x`` may be ``grad_y``."""
    _elementwise("relu_grad", grad_y, y, grad_x)


def sigmoid(x: Array, y: Array) -> None:
    """1 / (1 + exp(-x)); ``y`` may be ``x``."""
    _elementwise("sigmoid", x, y)


def sigmoid_grad(grad_y: Array, y: Array, grad_x: Array) -> None:
    """Gradient of :func:`sigmoid`; ``grad_x`` may be ``grad_y``."""
    _elementwise("sigmoid_grad", grad_y, y, grad_x)


def scale(x: Array, number: Array, y: Array) -> None:
    """``x`` times a number, a float32 array of one element; ``y`` may be ``x``.

    A number on the device is read when the kernel runs; NumPy's is what it is now.
    """
    if not y.size:
        return
    vector = vector_of(y.size, x, y)
    total = y.size // vector
    known = isinstance(number, np.ndarray)
    factor = (None, np.float32(number.item())) if known else (number, np.float32(0))
    arguments = (x, *factor, y, total)
    launch(SOURCE, "scale", blocks(total), arguments, defines=defines_of(y, vector))


def move_channels(x: Array, x_first: int, y: Array, y_first: int, count: int) -> None:
    """Write channels of x from ``x_first`` on to those of y from ``y_first`` on.

    Channels are the last axis of both; what else y has stays.
    """
    if not y.size or not count:
        return
    pitches = x.shape[-1], y.shape[-1]
    vector = vector_of(math.gcd(count, x_first, y_first, *pitches), x, y)
    rows, width = y.size // pitches[1], count // vector
    places = (n // vector for n in (pitches[0], x_first, pitches[1], y_first))
    arguments = (x, y, rows, *int32(width, *places))
    launch(SOURCE, "move_columns", blocks(rows * width), arguments, defines=defines_of(y, vector))


def gate(x: Array, gates: Array, y: Array) -> None:
    """Maps (N, H, W, C) times gates (N, C) float32."""
    if not y.size:
        return
    images, height, width, channels = x.shape
    vector = vector_of(channels, x, gates, y)
    sizes = images, height * width, channels // vector
    grid = min(blocks(sizes[1] * sizes[2])[0], RESIDENT), min(images, MOST_IMAGES)
    launch(SOURCE, "gate", grid, (x, gates, y, *int32(*sizes)), defines=defines_of(x, vector))


def gate_grad(grad_y: Array, x: Array, gates: Array, grad_x: Array, grad_gates: Array) -> None:
    """Gradients of :func:`gate`; ``grad_x`` may be ``grad_y``."""
    if not x.size:
        grad_gates.fill(0)
        return
    images, height, width, channels = x.shape
    vector = vector_of(channels, x, grad_y, gates, grad_x)
    vectors = channels // vector
    block, across = channel_blocks(vectors)
    launch(
        SOURCE,
        "gate_grad",
        (across, min(images, MOST_IMAGES)),
        (grad_y, x, gates, grad_x, grad_gates, *int32(images, height * width, vectors)),
        block=block,
        defines=defines_of(x, vector),
    )
