"""Weight gradient of a convolution on maps so small that many taps see only padding.

A pair of an output place and an input place belongs to one tap at most. So the gradient of a tap
is a sum, over the pairs that belong to it, of products over the images,

    dW[r, s] = sum over (i, j) of dY[:, i, j]^T X[:, step i + r - padding, step j + s - padding]

and a tap that sees only padding is no work: on 1x1 maps a 3x3 kernel is its centre. An item owns a
region of K x C and packs a group of images of each place once.
"""

from .memory import copy_rows, zero_vectors
from .parallel import FIRST, helper, kernel, next_item
from .vector import VECTOR_BYTES, load_int
from .weight_parts import (
    clear_tail,
    line_bytes,
    multiply_rows,
    padded,
    row_bytes,
    sums_bytes,
    vector_rows,
    write_filters,
)

(
    X,
    GRAD,
    WEIGHT,
    SCRATCH,
    THREAD_SCRATCH,
    IMAGES,
    GROUP,
    HEIGHT,
    WIDTH,
    CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUT_CHANNELS,
    TAPS,
    USED,
    USED_COUNT,
    STEP,
    PADDING,
    REGION_ROWS,
    REGION_COLUMNS,
    GEMM,
) = range(FIRST, FIRST + 21)


@helper
def pack_places(
    source: int, places: int, channels: int, count: int, images: int, group: int, row: int, to: int
) -> None:
    """Write `count` channels of `images` images as (places, group, row bytes)."""
    for place in range(places):
        target = to + place * group * row
        copy_rows(source + place * channels * 4, places * channels * 4, target, row, count, images)
        clear_tail(target, row, images)


@helper
def add_tap(
    table: int,
    r: int,
    s: int,
    a: int,
    b: int,
    images: int,
    rows: int,
    columns: int,
    sums: int,
    accumulate: int,
) -> None:
    """Sum up one tap over all its pairs of places."""
    group = load_int(table, GROUP)
    a_row, b_row = row_bytes(rows), vector_rows(columns)
    step, padding = load_int(table, STEP), load_int(table, PADDING)
    height, width = load_int(table, HEIGHT), load_int(table, WIDTH)
    out_width = load_int(table, OUT_WIDTH)
    again = accumulate
    for i in range(load_int(table, OUT_HEIGHT)):
        h = step * i - padding + r
        for j in range(out_width):
            w = step * j - padding + s
            if 0 <= h < height and 0 <= w < width:
                multiply_rows(
                    load_int(table, GEMM),
                    a + (i * out_width + j) * group * a_row,
                    a_row,
                    b + (h * width + w) * group * b_row,
                    b_row,
                    padded(images),
                    rows,
                    columns,
                    sums,
                    again,
                )
                again = 1


@kernel
def weight_tiny(table: int, thread: int, threads: int) -> None:
    """The gradient of a region of channels: an item."""
    group, all_images = load_int(table, GROUP), load_int(table, IMAGES)
    channels, out_channels = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    region_rows, region_columns = load_int(table, REGION_ROWS), load_int(table, REGION_COLUMNS)
    across = (channels + region_columns - 1) // region_columns
    places = load_int(table, HEIGHT) * load_int(table, WIDTH)
    out_places = load_int(table, OUT_HEIGHT) * load_int(table, OUT_WIDTH)
    taps, used = load_int(table, TAPS), load_int(table, USED)
    used_count = load_int(table, USED_COUNT)
    line = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    a = line + line_bytes(region_columns, taps * taps)
    b = a + out_places * group * row_bytes(region_rows)
    sums = b + places * group * vector_rows(region_columns)
    item = next_item(table)
    while item >= 0:
        k_first = item // across * region_rows
        c_first = item % across * region_columns
        rows = min(region_rows, out_channels - k_first)
        columns = min(region_columns, channels - c_first)
        tap_bytes = sums_bytes(rows, columns)
        if all_images == 0:
            zero_vectors(sums, used_count * tap_bytes // VECTOR_BYTES)
        for first in range(0, all_images, group):
            images = min(group, all_images - first)
            pack_places(
                load_int(table, GRAD) + (first * out_places * out_channels + k_first) * 4,
                out_places,
                out_channels,
                rows,
                images,
                group,
                row_bytes(rows),
                a,
            )
            pack_places(
                load_int(table, X) + (first * places * channels + c_first) * 4,
                places,
                channels,
                columns,
                images,
                group,
                vector_rows(columns),
                b,
            )
            for number in range(used_count):
                tap = load_int(used, number)
                place = sums + number * tap_bytes
                r, s = tap // taps, tap % taps
                add_tap(table, r, s, a, b, images, rows, columns, place, first > 0)
        write_filters(
            sums,
            tap_bytes,
            taps * taps,
            used,
            used_count,
            rows,
            columns,
            load_int(table, WEIGHT) + (k_first * channels + c_first) * taps * taps * 4,
            channels,
            line,
        )
        item = next_item(table)
