"""Direct convolution of images of three channels, float32 NHWC: nothing is gathered.

The taps of one row of a filter see 3 S floats that lie side by side, and the next output pixel
sees them 3 * stride floats further on. So the microkernel's rows are pixels of one output row, read
where they lie: in a padded copy of the R image rows that it sees, a few KB for each thread.
Gathered as in `direct`, they would first be written S times over. Layouts, L lanes:

    A (R, floats of a padded row)
    B (K / 2L, R * S * 3, 2L)     packed weights, as in `direct`
    M (pixels, columns * 2L)
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from . import direct
from .direct import finish_block
from .memory import copy_in, zero_vectors
from .microkernel import by_height, tile_start
from .packing import padded_depth
from .parallel import helper, kernel, next_item
from .vector import (
    I64,
    LANES,
    TILE_COLUMNS,
    TILE_ROWS,
    VECTOR_BYTES,
    Emitter,
    indirect_call,
    ir_kernel,
    load_int,
)

CHANNELS = 3

SEGMENT = 8 * TILE_ROWS
"""Most pixels in an item; its A and M stay in L1 and L2."""


def _pixels(stride: int) -> Callable[..., None]:
    """Return what emits C (rows, 2L) = A B for `rows` neighbouring output pixels."""
    pixel = 4 * CHANNELS * stride

    def emit(
        e: Emitter,
        rows: int,
        a: ir.Value,
        row_step: ir.Value,
        b: ir.Value,
        c: ir.Value,
        c_stride: ir.Value,
        tap_rows: ir.Value,
        taps: ir.Value,
    ) -> None:
        builder = e.builder
        zero = e.constant(0.0)
        places = [(row, half) for row in range(rows) for half in range(2)]
        outer = e.loop(tap_rows, [a, b, *[zero] * len(places)])
        a_row, b_row, *totals = outer.values
        inner = e.loop(taps, [a_row, b_row, *totals])
        a_now, b_now, *totals = inner.values
        for channel in range(CHANNELS):
            right = e.shift(b_now, 2 * VECTOR_BYTES * channel)
            halves = [e.load(right, half * VECTOR_BYTES) for half in range(2)]
            for row in range(rows):
                value = e.broadcast(a_now, row * pixel + 4 * channel)
                for half in range(2):
                    totals[2 * row + half] = e.fma(value, halves[half], totals[2 * row + half])
        b_next = e.shift(b_now, 2 * VECTOR_BYTES * CHANNELS)
        _, b_after, *totals = inner.close([e.shift(a_now, 4 * CHANNELS), b_next, *totals])
        _, _, *totals = outer.close([e.shift(a_row, row_step), b_after, *totals])
        for (row, half), value in zip(places, totals, strict=True):
            e.store(value, e.shift(c, builder.mul(c_stride, I64(row))), half * VECTOR_BYTES)

    return emit


_pixels_1: Callable[..., Any] = ir_kernel("pixels_1", "ipippiii", by_height("_pixels1", _pixels(1)))
_pixels_2: Callable[..., Any] = ir_kernel("pixels_2", "ipippiii", by_height("_pixels2", _pixels(2)))


@kernel
def pixels_1(
    rows: int, a: int, row_step: int, b: int, c: int, c_stride: int, tap_rows: int, taps: int
) -> None:
    """C (rows, 2L) of neighbouring pixels, stride 1. Steps in bytes."""
    _pixels_1(rows, a, row_step, b, c, c_stride, tap_rows, taps)


@kernel
def pixels_2(
    rows: int, a: int, row_step: int, b: int, c: int, c_stride: int, tap_rows: int, taps: int
) -> None:
    """C (rows, 2L) of neighbouring pixels, stride 2. Steps in bytes."""
    _pixels_2(rows, a, row_step, b, c, c_stride, tap_rows, taps)


PIXELS = {1: pixels_1, 2: pixels_2}
"""The microkernel of each stride."""

call_pixels: Callable[..., Any] = indirect_call("call_pixels", 8)


@helper
def row_vectors(pixels: int, step: int, taps: int) -> int:
    """Return the vectors of a padded row that `pixels` outputs see, with room for an overhang."""
    return (((pixels - 1) * step + taps) * CHANNELS + LANES - 1) // LANES + 1


@helper
def copy_row(table: int, image: int, row: int, left: int, length: int, target: int) -> None:
    """Write `length` pixels of an image's row from `left` on, 0 outside of it."""
    height = load_int(table, direct.HEIGHT)
    width = load_int(table, direct.WIDTH)
    low = min(max(-left, 0), length)
    high = max(min(width - left, length), low)
    inside = 0 <= row < height
    if not inside or low > 0 or high < length:
        zero_vectors(target, (length * CHANNELS + LANES - 1) // LANES)
    if inside:
        source = ((image * height + row) * width + left + low) * 4 * CHANNELS
        copy_in(
            load_int(table, direct.X) + source,
            target + low * 4 * CHANNELS,
            (high - low) * CHANNELS,
        )


@kernel
def image_rows(table: int, thread: int, threads: int) -> None:
    """All stages of a segment of an output row, or of several short rows: an item is those."""
    step = load_int(table, direct.STEP)
    tap_rows = load_int(table, direct.TAP_ROWS)
    taps = load_int(table, direct.TAP_COLUMNS)
    grid_height = load_int(table, direct.GRID_HEIGHT)
    grid_width = load_int(table, direct.GRID_WIDTH)
    segment = load_int(table, direct.BLOCK)
    segments = (grid_width + segment - 1) // segment
    rows = load_int(table, direct.ROWS)
    columns = (load_int(table, direct.OUT_CHANNELS) + TILE_COLUMNS - 1) // TILE_COLUMNS
    weight_step = padded_depth(tap_rows * taps * CHANNELS) * TILE_COLUMNS * 4
    row_step = row_vectors(segment, step, taps) * VECTOR_BYTES
    c_stride = columns * TILE_COLUMNS * 4
    a = load_int(table, direct.SCRATCH) + thread * load_int(table, direct.THREAD_SCRATCH)
    products = a + tap_rows * row_step
    item = next_item(table)
    while item >= 0:
        first_row = item // segments * rows
        count = min(rows, load_int(table, direct.IMAGES) * grid_height - first_row)
        first = item % segments * segment
        pixels = min(segment, grid_width - first)
        left = load_int(table, direct.LEFT) + step * first
        length = (pixels - 1) * step + taps
        tiles = (pixels + TILE_ROWS - 1) // TILE_ROWS
        for number in range(count):
            image, i = (first_row + number) // grid_height, (first_row + number) % grid_height
            top = load_int(table, direct.TOP) + step * i
            for r in range(tap_rows):
                copy_row(table, image, top + r, left, length, a + r * row_step)
            c = products + number * pixels * c_stride
            for column in range(columns):
                for tile in range(tiles):
                    start = tile_start(pixels, tile)
                    call_pixels(
                        load_int(table, direct.GEMM),
                        tile_start(pixels, tile + 1) - start,
                        a + start * step * 4 * CHANNELS,
                        row_step,
                        load_int(table, direct.WEIGHT) + column * weight_step,
                        c + start * c_stride + column * TILE_COLUMNS * 4,
                        c_stride,
                        tap_rows,
                        taps,
                    )
        place = first_row * grid_width + first
        finish_block(table, place, pixels * count, -1, 0, columns, products, item)
        item = next_item(table)
