"""Memory order and element type of what enters a plan, and sums of two arrays."""

from __future__ import annotations

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import blocks, launch, scalar_type
from npresnet_kernels.gpu.memory import address
from npresnet_kernels.gpu.vectors import RESIDENT, defines_of, int32, vector_of

__all__ = ["MOST_IMAGES", "add", "cast", "pad_channels", "to_channels_first", "to_channels_last"]

SOURCE = "plan_layout.cu"
MOST_IMAGES = 65535
"""Blocks down a grid."""


def to_channels_last(x: Array, out: Array) -> None:
    """Write (N, C, H, W), C-contiguous, as (N, H, W, C') with zeros in the channels from C on.

    Parameters
    ----------
    x : array (N, C, H, W)
        Of any element type.
    out : array (N, H, W, C')
        Of the plan's element type.
    """
    images, channels, height, width = x.shape
    if not out.size:
        return
    vector = vector_of(out.shape[3], out)
    if vector == 1 and out.shape[3] == 4 and address(out) % 8 == 0:
        vector = 4  # pixels of a stem in 16 bits: half a vector each
    sizes = (images, channels, height * width, out.shape[3] // vector)
    across = min(blocks(height * width * sizes[3])[0], RESIDENT)
    grid = (across, min(images, MOST_IMAGES))
    launch(
        SOURCE,
        "to_channels_last",
        grid,
        (x, out, *int32(*sizes)),
        defines=defines_of(out, vector, x),
    )


def pad_channels(x: Array, out: Array) -> None:
    """Write (N, H, W, C) as (N, H, W, C') with zeros in the channels from C on.

    Both of any element type.
    """
    if not out.size:
        return
    channels, padded = x.shape[3], out.shape[3]
    launch(
        "pack.cu",
        "pad_rows",
        blocks(out.size),
        (x, out, out.size // padded, *int32(channels, padded)),
        defines={"SCALAR": scalar_type(out), "FROM": scalar_type(x)},
    )


def to_channels_first(x: Array, out: Array) -> None:
    """Write (N, H, W, C) as (N, C, H, W), C-contiguous, in the element type of ``out``."""
    images, height, width, channels = x.shape
    if not out.size:
        return
    pixels = height * width
    grid = min(blocks(pixels * channels)[0], RESIDENT), min(images, MOST_IMAGES)
    arguments = (x, out, *int32(images, channels, pixels))
    launch(SOURCE, "to_channels_first", grid, arguments, defines=defines_of(out, 1, x))


def _elementwise(kernel: str, x: Array, *others: Array) -> None:
    """Run a kernel over arrays of one size, whatever their shapes; the last one is written."""
    out = others[-1]
    if not out.size:
        return
    vector = vector_of(out.size, out, x, *others)
    total = out.size // vector
    arguments = (x, *others, total)
    launch(SOURCE, kernel, blocks(total), arguments, defines=defines_of(out, vector, x))


def cast(x: Array, out: Array) -> None:
    """Write ``x`` in the element type of ``out``."""
    _elementwise("cast", x, out)


def add(x: Array, y: Array, out: Array) -> None:
    """Write x + y; ``out`` may be one of them."""
    _elementwise("add", x, y, out)
