"""Weight gradient of a convolution, direct: dW = dY^T im2col(X), block by block of pixels.

    A (pixels, K)                   a block of dY
    B (pixels, columns)             the same pixels of im2col(X)
    sums (column tiles, k tiles, rows, 2L)

An item owns a range of 2L input channels with all their taps and walks over the pixels of its
shard in order, so nothing is added up by two threads. Columns are (r, s, channels of the range).
Few input channels (a stem) don't fill vectors: then columns are (r, s, c) without gaps, and there
is one range.
"""

from .memory import copy_in, copy_rows, zero_vectors
from .parallel import FIRST, helper, kernel, next_item
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES, load_float, load_int, store_float
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
    PARTIAL,
    SCRATCH,
    THREAD_SCRATCH,
    IMAGES,
    HEIGHT,
    WIDTH,
    CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUT_CHANNELS,
    TAPS,
    USED,
    STEP,
    PADDING,
    BLOCK,
    SHARDS,
    FLAT,
    GEMM,
) = range(FIRST, FIRST + 21)


@helper
def column_count(channels: int, taps: int, flat: int) -> int:
    """Return the columns of a range."""
    return taps * taps * (channels if flat else TILE_COLUMNS)


@helper
def columns_row(channels: int, taps: int, flat: int) -> int:
    """Return the bytes of a row of B; flat runs overhang by less than two vectors."""
    return vector_rows(column_count(channels, taps, flat) + flat * LANES)


@helper
def gather_pixel(table: int, image: int, top: int, left: int, first: int, target: int) -> None:
    """Write one pixel's columns of the range of channels from `first` on."""
    height, width = load_int(table, HEIGHT), load_int(table, WIDTH)
    channels, taps = load_int(table, CHANNELS), load_int(table, TAPS)
    source = load_int(table, X) + (((image * height + top) * width + left) * channels + first) * 4
    inside = top >= 0 and left >= 0 and top + taps <= height and left + taps <= width
    row_step = width * channels * 4
    if load_int(table, FLAT):
        # each run overhangs into the next one's place, which is written later
        run = taps * channels
        if inside:
            copy_rows(source, row_step, target, run * 4, run, taps)
            return
        low = min(max(-left, 0), taps)
        high = max(min(width - left, taps), low)
        for r in range(taps):
            place = target + r * run * 4
            zero_vectors(place, (run + LANES - 1) // LANES)
            if 0 <= top + r < height:
                shift = low * channels * 4
                copy_in(source + r * row_step + shift, place + shift, (high - low) * channels)
        return
    count = min(TILE_COLUMNS, channels - first)
    for r in range(taps):
        place = target + r * taps * TILE_COLUMNS * 4
        if inside:
            copy_rows(source + r * row_step, channels * 4, place, TILE_COLUMNS * 4, count, taps)
        else:
            zero_vectors(place, 2 * taps)
            for s in range(taps):
                if 0 <= top + r < height and 0 <= left + s < width:
                    here = source + r * row_step + s * channels * 4
                    copy_in(here, place + s * TILE_COLUMNS * 4, count)


@helper
def gather_pixels(table: int, start: int, pixels: int, first: int, b: int, row: int) -> None:
    """Write B for `pixels` pixels from number `start` on."""
    height, width = load_int(table, OUT_HEIGHT), load_int(table, OUT_WIDTH)
    step, padding = load_int(table, STEP), load_int(table, PADDING)
    # counted on, not divided anew for each pixel
    image, i, j = start // (height * width), start // width % height, start % width
    for pixel in range(pixels):
        top, left = step * i - padding, step * j - padding
        gather_pixel(table, image, top, left, first, b + pixel * row)
        j += 1
        if j == width:
            i, j = i + 1, 0
        if i == height:
            image, i = image + 1, 0


@helper
def write_range(table: int, sums: int, first: int, target: int, line: int) -> None:
    """Write the filters' share of a range of channels from its sums."""
    channels, rows = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    taps = load_int(table, TAPS) * load_int(table, TAPS)
    if load_int(table, FLAT):
        k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
        for k_tile in range(k_tiles):
            start = k_tile * rows // k_tiles
            for row in range((k_tile + 1) * rows // k_tiles - start):
                for tap in range(taps):
                    for channel in range(channels):
                        column = tap * channels + channel
                        tile = column // TILE_COLUMNS * k_tiles + k_tile
                        place = (tile * TILE_ROWS + row) * TILE_COLUMNS + column % TILE_COLUMNS
                        value = load_float(sums, place)
                        store_float(
                            target, ((start + row) * channels + channel) * taps + tap, value
                        )
        return
    write_filters(
        sums,
        sums_bytes(rows, TILE_COLUMNS),
        taps,
        load_int(table, USED),
        taps,
        rows,
        min(TILE_COLUMNS, channels - first),
        target + first * taps * 4,
        channels,
        line,
    )


@kernel
def weight_direct(table: int, thread: int, threads: int) -> None:
    """The gradient of a range of input channels over a shard of the pixels: an item is both."""
    block, shards, flat = load_int(table, BLOCK), load_int(table, SHARDS), load_int(table, FLAT)
    channels, out_channels = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    taps = load_int(table, TAPS)
    pixels = load_int(table, IMAGES) * load_int(table, OUT_HEIGHT) * load_int(table, OUT_WIDTH)
    blocks = (pixels + block - 1) // block
    columns = column_count(channels, taps, flat)
    a_row, b_row = row_bytes(out_channels), columns_row(channels, taps, flat)
    line = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    a = line + line_bytes(TILE_COLUMNS, taps * taps)
    b = a + block * a_row
    sums = b + block * b_row
    item = next_item(table)
    while item >= 0:
        shard = item % shards
        first = item // shards * TILE_COLUMNS
        begin, end = shard * blocks // shards, (shard + 1) * blocks // shards
        if begin == end:
            zero_vectors(sums, sums_bytes(out_channels, columns) // VECTOR_BYTES)
        for number in range(begin, end):
            start = number * block
            count = min(block, pixels - start)
            gather_pixels(table, start, count, first, b, b_row)
            clear_tail(b, b_row, count)
            source = load_int(table, GRAD) + start * out_channels * 4
            copy_rows(source, out_channels * 4, a, a_row, out_channels, count)
            clear_tail(a, a_row, count)
            multiply_rows(
                load_int(table, GEMM),
                a,
                a_row,
                b,
                b_row,
                padded(count),
                out_channels,
                columns,
                sums,
                number > begin,
            )
        target = load_int(table, WEIGHT)
        if shards > 1:
            target = load_int(table, PARTIAL) + shard * out_channels * channels * taps * taps * 4
        write_range(table, sums, first, target, line)
        item = next_item(table)
