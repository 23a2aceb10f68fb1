"""Weight gradient of a convolution, direct: dW = dY^T im2col(X), block by block of pixels.

    A (k tiles, pixels, vectors of a tile's rows)    a block of dY, rows = output channels
    B (column tiles, pixels, 2L)                     the same pixels of im2col(X)
    sums (k tiles, column tiles, rows, 2L)           the gradient, in the order of its making

An item owns a range of 2L input channels with all their taps and walks over the pixels of its
shard in order, so nothing is added up by two threads. How many shards there are depends on the
shape alone; their partial gradients are added in order. Few input channels (a stem) don't fill
vectors: then columns are (r, s, c) flattened, and there is one range.
"""

from .direct import (
    BLOCK,
    CHANNELS,
    GEMM,
    GRID_HEIGHT,
    GRID_WIDTH,
    HEIGHT,
    IMAGES,
    LEFT,
    OUT_CHANNELS,
    SCRATCH,
    STEP,
    TAP_COLUMNS,
    TAP_ROWS,
    THREAD_SCRATCH,
    TOP,
    WEIGHT,
    WIDTH,
    X,
    Y,
    gather_pixel,
)
from .memory import copy_in, copy_rows, zero_vectors
from .microkernel import call_gemm, tile_start
from .parallel import helper, kernel, next_item
from .vector import (
    LANES,
    TILE_COLUMNS,
    TILE_ROWS,
    VECTOR_BYTES,
    load_float,
    load_int,
    store_float,
)

FLAT = GEMM + 1
SHARDS = GEMM + 2
PARTIAL = GEMM + 3
SLOTS = GEMM + 4

LINE_SLACK = 3
"""Vectors that a flat pixel may overhang."""

ROW_VECTORS = (TILE_ROWS + LANES - 1) // LANES
"""Vectors that hold one pixel's channels of a tile."""


@helper
def column_tiles(table: int) -> tuple[int, int]:
    """Return the column tiles of a range, and how many ranges there are."""
    channels = load_int(table, CHANNELS)
    taps = load_int(table, TAP_ROWS) * load_int(table, TAP_COLUMNS)
    if load_int(table, FLAT):
        return (taps * channels + TILE_COLUMNS - 1) // TILE_COLUMNS, 1
    return taps, (channels + TILE_COLUMNS - 1) // TILE_COLUMNS


@helper
def gather_range(
    table: int, image: int, i: int, j: int, first: int, tile_step: int, target: int
) -> None:
    """Write one pixel's columns of the range of channels from `first` on."""
    height = load_int(table, HEIGHT)
    width = load_int(table, WIDTH)
    channels = load_int(table, CHANNELS)
    taps = load_int(table, TAP_COLUMNS)
    top = load_int(table, TOP) + load_int(table, STEP) * i
    left = load_int(table, LEFT) + load_int(table, STEP) * j
    source = load_int(table, X) + (((image * height + top) * width + left) * channels + first) * 4
    count = min(TILE_COLUMNS, channels - first)
    for r in range(load_int(table, TAP_ROWS)):
        for s in range(taps):
            place = target + (r * taps + s) * tile_step
            if count < TILE_COLUMNS or not (0 <= top + r < height and 0 <= left + s < width):
                zero_vectors(place, 2)
            if 0 <= top + r < height and 0 <= left + s < width:
                copy_in(source + (r * width + s) * channels * 4, place, count)


@helper
def gather_columns(
    table: int, first_pixel: int, pixels: int, stored: int, first: int, b: int, flat: int
) -> None:
    """Write B for `pixels` pixels from `first_pixel` on; `stored` is the room for pixels."""
    grid_width = load_int(table, GRID_WIDTH)
    grid = load_int(table, GRID_HEIGHT) * grid_width
    tap_rows, taps = load_int(table, TAP_ROWS), load_int(table, TAP_COLUMNS)
    tile_step = stored * TILE_COLUMNS * 4
    tiles, _ = column_tiles(table)
    line_step = (2 * tiles + LINE_SLACK) * VECTOR_BYTES
    for pixel in range(pixels):
        image = (first_pixel + pixel) // grid
        i = (first_pixel + pixel) % grid // grid_width
        j = (first_pixel + pixel) % grid_width
        if load_int(table, FLAT):
            line = flat + pixel * line_step
            zero_vectors(line, 2 * tiles)
            gather_pixel(table, image, i, j, 0, tap_rows, 0, taps, line, VECTOR_BYTES, line)
        else:
            gather_range(table, image, i, j, first, tile_step, b + pixel * TILE_COLUMNS * 4)
    if load_int(table, FLAT):
        # apart from the gather, as loads of what was just stored elsewise aligned would wait
        row = TILE_COLUMNS * 4
        for pixel in range(pixels):
            copy_rows(
                flat + pixel * line_step, row, b + pixel * row, tile_step, TILE_COLUMNS, tiles
            )


@helper
def write_weights(table: int, sums: int, shard_step: int, item_range: int) -> None:
    """Add up shards in order and write (K, C, R, S) for one range."""
    channels = load_int(table, CHANNELS)
    out_channels = load_int(table, OUT_CHANNELS)
    taps = load_int(table, TAP_ROWS) * load_int(table, TAP_COLUMNS)
    tiles, _ = column_tiles(table)
    flat = load_int(table, FLAT)
    first = item_range * TILE_COLUMNS
    count = min(TILE_COLUMNS, channels - first)
    if flat:
        count = channels
    k_tiles = (out_channels + TILE_ROWS - 1) // TILE_ROWS
    for k_tile in range(k_tiles):
        start = tile_start(out_channels, k_tile)
        for row in range(tile_start(out_channels, k_tile + 1) - start):
            target = load_int(table, WEIGHT) + ((start + row) * channels + first) * taps * 4
            for tap in range(taps):
                for channel in range(count):
                    tile, lane = tap, channel
                    if flat:
                        tile = (tap * channels + channel) // TILE_COLUMNS
                        lane = (tap * channels + channel) % TILE_COLUMNS
                    place = ((k_tile * tiles + tile) * TILE_ROWS + row) * TILE_COLUMNS + lane
                    total = load_float(sums, place)
                    for shard in range(1, load_int(table, SHARDS)):
                        total += load_float(sums + shard * shard_step, place)
                    store_float(target, channel * taps + tap, total)


@kernel
def weight_direct(table: int, thread: int, threads: int) -> None:
    """The gradient of a range of input channels over a shard of the pixels: an item is both."""
    block = load_int(table, BLOCK)
    shards = load_int(table, SHARDS)
    out_channels = load_int(table, OUT_CHANNELS)
    pixels = load_int(table, IMAGES) * load_int(table, GRID_HEIGHT) * load_int(table, GRID_WIDTH)
    tiles, _ = column_tiles(table)
    k_tiles = (out_channels + TILE_ROWS - 1) // TILE_ROWS
    sums_bytes = k_tiles * tiles * TILE_ROWS * TILE_COLUMNS * 4
    a = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    b = a + k_tiles * block * ROW_VECTORS * VECTOR_BYTES
    flat = b + tiles * block * TILE_COLUMNS * 4
    lines = block * (2 * tiles + LINE_SLACK) * load_int(table, FLAT)
    own_sums = flat + lines * VECTOR_BYTES
    blocks = (pixels + block - 1) // block
    item = next_item(table)
    while item >= 0:
        shard = item % shards
        first = item // shards * TILE_COLUMNS
        sums = own_sums
        if shards > 1:
            sums = load_int(table, PARTIAL) + item * sums_bytes
        begin = shard * blocks // shards
        end = (shard + 1) * blocks // shards
        if begin == end:
            zero_vectors(sums, sums_bytes // VECTOR_BYTES)
        for number in range(begin, end):
            first_pixel = number * block
            count = min(block, pixels - first_pixel)
            depth = (count + 3) // 4 * 4
            gather_columns(table, first_pixel, count, block, first, b, flat)
            for tile in range(tiles):
                zero_vectors(b + (tile * block + count) * TILE_COLUMNS * 4, (depth - count) * 2)
            for k_tile in range(k_tiles):
                start = tile_start(out_channels, k_tile)
                rows = tile_start(out_channels, k_tile + 1) - start
                place = a + k_tile * block * ROW_VECTORS * VECTOR_BYTES
                copy_rows(
                    load_int(table, Y) + (first_pixel * out_channels + start) * 4,
                    out_channels * 4,
                    place,
                    ROW_VECTORS * VECTOR_BYTES,
                    rows,
                    count,
                )
                place += count * ROW_VECTORS * VECTOR_BYTES
                zero_vectors(place, (depth - count) * ROW_VECTORS)
            for tile in range(tiles):
                for k_tile in range(k_tiles):
                    start = tile_start(out_channels, k_tile)
                    call_gemm(
                        load_int(table, GEMM),
                        tile_start(out_channels, k_tile + 1) - start,
                        a + k_tile * block * ROW_VECTORS * VECTOR_BYTES,
                        ROW_VECTORS * VECTOR_BYTES,
                        b + tile * block * TILE_COLUMNS * 4,
                        TILE_COLUMNS * 4,
                        sums + (k_tile * tiles + tile) * TILE_ROWS * TILE_COLUMNS * 4,
                        TILE_COLUMNS * 4,
                        depth,
                        0,
                        number > begin,
                    )
        if shards == 1:
            write_weights(table, sums, 0, item)
        item = next_item(table)


@kernel
def weight_reduce(table: int, thread: int, threads: int) -> None:
    """Add up the shards: an item is a range of input channels."""
    tiles, _ = column_tiles(table)
    k_tiles = (load_int(table, OUT_CHANNELS) + TILE_ROWS - 1) // TILE_ROWS
    sums_bytes = k_tiles * tiles * TILE_ROWS * TILE_COLUMNS * 4
    shards = load_int(table, SHARDS)
    item = next_item(table)
    while item >= 0:
        write_weights(
            table, load_int(table, PARTIAL) + item * shards * sums_bytes, sums_bytes, item
        )
        item = next_item(table)
