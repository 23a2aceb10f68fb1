"""Max pools and the mean over whole maps, (N, H, W, C), into given memory."""

from __future__ import annotations

import math
from itertools import chain

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import blocks, launch
from npresnet_kernels.gpu.plan_layout import MOST_IMAGES
from npresnet_kernels.gpu.vectors import RESIDENT, channel_blocks, defines_of, int32, vector_of
from npresnet_kernels.shapes import PoolWindow

__all__ = [
    "average_pool_backward",
    "average_pool_forward",
    "max_pool_backward",
    "max_pool_forward",
    "takes_max_pool",
]

SOURCE = "plan_pool.cu"
MOST_TAPS = 255
"""A winner's number in its window must fit a byte, and one more says that there is none."""


def takes_max_pool(window: PoolWindow) -> bool:
    """Return whether a max pool's window is small enough."""
    return math.prod(window.kernel_size) <= MOST_TAPS


def _over_image(images: int, vectors: int) -> tuple[int, int]:
    """A grid whose rows work on an image each."""
    return min(blocks(vectors)[0], RESIDENT), min(images, MOST_IMAGES)


def max_pool_forward(x: Array, y: Array, winners: Array | None, window: PoolWindow) -> None:
    """Maximum over windows; ``winners`` (bytes, as ``y``) gets the number of its tap."""
    if not y.size:
        return
    vector = vector_of(x.shape[3], x, y, winners)
    vectors = x.shape[3] // vector
    sizes = (len(x), vectors, *x.shape[1:3], *y.shape[1:3], *chain(*window))
    launch(
        SOURCE,
        "max_pool_bytes",
        _over_image(len(x), y.shape[1] * y.shape[2] * vectors),
        (x, y, winners, *int32(*sizes)),
        defines=defines_of(x, vector),
    )


def max_pool_backward(grad_y: Array, winners: Array, grad_x: Array, window: PoolWindow) -> None:
    """Each pixel gathers the gradients of the windows that it won."""
    if not grad_x.size:
        return
    vector = vector_of(grad_x.shape[3], grad_x, grad_y, winners)
    vectors = grad_x.shape[3] // vector
    sizes = (*grad_x.shape[1:3], *grad_y.shape[1:3], *chain(*window))
    launch(
        SOURCE,
        "max_pool_bytes_grad",
        _over_image(len(grad_x), grad_x.shape[1] * grad_x.shape[2] * vectors),
        (grad_y, winners, grad_x, *int32(len(grad_x), vectors, *sizes)),
        defines=defines_of(grad_x, vector),
    )


def average_pool_forward(x: Array, y: Array) -> None:
    """Mean over all pixels, (N, H, W, C) to (N, C) float32."""
    if not y.size:
        return
    images, height, width, channels = x.shape
    vector = vector_of(channels, x)
    vectors = channels // vector
    block, across = channel_blocks(vectors)
    launch(
        SOURCE,
        "mean_of_maps",
        (across, min(images, MOST_IMAGES)),
        (x, y, *int32(images, height * width, vectors)),
        block=block,
        defines=defines_of(x, vector),
    )


def average_pool_backward(grad_y: Array, grad_x: Array) -> None:
    """Gradient of :func:`average_pool_forward`."""
    if not grad_x.size:
        return
    images, height, width, channels = grad_x.shape
    vector = vector_of(channels, grad_x, grad_y)
    vectors = channels // vector
    launch(
        SOURCE,
        "mean_of_maps_grad",
        _over_image(images, height * width * vectors),
        (grad_y, grad_x, *int32(images, height * width, vectors)),
        defines=defines_of(grad_x, vector),
    )
