"""Weight gradient of a 3x3, stride-1 convolution in a Winograd form, deterministic.

In F(3x3, 4x4), correlating a 4 x 4 tile of dY with the 6 x 6 tile of X under it gives a share of
the gradient: dW = sum over tiles of A^T [(G dY G^T) * (B^T X B)] A. The sum commutes with A, so per
point it is a product over the tiles, a quarter of the direct form's work:

    V (points, tiles, C vectors)      B^T X B, the transform of the forward pass
    E (points, tiles, K vectors)      G dY G^T
    M (points, k tiles, c tiles, rows, 2L) = E^T V

On whole maps of 2x2 there are 9 points instead of 36, from `MAP_2` of `matrices`.

An item owns a region of K x C and a shard of the tiles, and walks over its tiles in groups whose V
and E fit L2 beside M. It transforms what it needs itself, though items of the same tiles or
channels do so again: that costs less than fetching V and E from another core's cache. How many
shards there are depends on the shape alone; their gradients are added in order.
"""

from .memory import copy_out, zero_vectors
from .microkernel import tile_start
from .parallel import FIRST, helper, kernel, next_item
from .transforms import call_filter
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES, load_int
from .weight_parts import (
    SUMS_BYTES,
    clear_tail,
    line_bytes,
    multiply_rows,
    padded,
    row_bytes,
    sums_bytes,
    vector_rows,
)
from .winograd import PATCH_VECTORS, transform_patch

(
    X,
    GRAD,
    WEIGHT,
    PARTIAL,
    SCRATCH,
    THREAD_SCRATCH,
    HEIGHT,
    WIDTH,
    CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUT_CHANNELS,
    PADDING,
    OUTPUTS,
    SIDE,
    POINTS,
    TILE_HEIGHT,
    TILE_WIDTH,
    TILES,
    GROUP,
    REGION_ROWS,
    REGION_COLUMNS,
    SHARDS,
    INPUT_TRANSFORM,
    GRADIENT_TRANSFORM,
    FILTER_TRANSFORM,
    GEMM,
) = range(FIRST, FIRST + 27)

PATCH_BYTES = 36 * PATCH_VECTORS * VECTOR_BYTES
"""Room for the pixels of the largest form's tile."""


@helper
def transform_group(
    table: int,
    first: int,
    count: int,
    k_first: int,
    rows: int,
    c_first: int,
    columns: int,
    v: int,
    e: int,
    patch: int,
) -> None:
    """Write V and E of `count` tiles from `first` on, for the region's channels."""
    across, down = load_int(table, TILE_WIDTH), load_int(table, TILE_HEIGHT)
    padding = load_int(table, PADDING)
    outputs = load_int(table, OUTPUTS)
    group = load_int(table, GROUP)
    v_row, e_row = vector_rows(columns), row_bytes(rows)
    for number in range(count):
        tile = first + number
        image = tile // (across * down)
        top = tile // across % down * outputs
        left = tile % across * outputs
        transform_patch(
            load_int(table, INPUT_TRANSFORM),
            load_int(table, X) + 4 * c_first,
            load_int(table, HEIGHT),
            load_int(table, WIDTH),
            load_int(table, CHANNELS),
            columns,
            image,
            top - padding,
            left - padding,
            load_int(table, SIDE),
            v + number * v_row,
            group * v_row,
            VECTOR_BYTES,
            patch,
        )
        transform_patch(
            load_int(table, GRADIENT_TRANSFORM),
            load_int(table, GRAD) + 4 * k_first,
            load_int(table, OUT_HEIGHT),
            load_int(table, OUT_WIDTH),
            load_int(table, OUT_CHANNELS),
            rows,
            image,
            top,
            left,
            outputs,
            e + number * e_row,
            group * e_row,
            VECTOR_BYTES,
            patch,
        )
    for point in range(load_int(table, POINTS)):
        clear_tail(v + point * group * v_row, v_row, count)
        clear_tail(e + point * group * e_row, e_row, count)


@helper
def write_region(table: int, sums: int, rows: int, columns: int, target: int, line: int) -> None:
    """Write the filters of a region from M, row by row; `line` is scratch for one."""
    channels = load_int(table, CHANNELS)
    point_sums = sums_bytes(rows, columns)
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    for k_tile in range(k_tiles):
        start = tile_start(rows, k_tile)
        for row in range(tile_start(rows, k_tile + 1) - start):
            for channel in range(0, columns, LANES):
                cell = sums + (channel // TILE_COLUMNS * k_tiles + k_tile) * SUMS_BYTES
                call_filter(
                    load_int(table, FILTER_TRANSFORM),
                    cell + row * TILE_COLUMNS * 4 + channel % TILE_COLUMNS * 4,
                    point_sums,
                    line + channel * 36,
                    12,
                    4,
                    36,
                    columns - channel,
                )
            copy_out(line, target + (start + row) * channels * 36, columns * 9)


@kernel
def weight_winograd(table: int, thread: int, threads: int) -> None:
    """The gradient of a region of channels over a shard of the tiles: an item is both."""
    group, shards = load_int(table, GROUP), load_int(table, SHARDS)
    channels, out_channels = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    region_rows, region_columns = load_int(table, REGION_ROWS), load_int(table, REGION_COLUMNS)
    points = load_int(table, POINTS)
    across = (channels + region_columns - 1) // region_columns
    tiles = load_int(table, TILES)

    patch = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    line = patch + PATCH_BYTES
    v = line + line_bytes(region_columns, 9)
    e = v + points * group * vector_rows(region_columns)
    sums = e + points * group * row_bytes(region_rows)
    item = next_item(table)
    while item >= 0:
        shard = item % shards
        k_first = item // shards // across * region_rows
        c_first = item // shards % across * region_columns
        rows = min(region_rows, out_channels - k_first)
        columns = min(region_columns, channels - c_first)
        begin, end = shard * tiles // shards, (shard + 1) * tiles // shards
        point_sums = sums_bytes(rows, columns)
        v_row, e_row = vector_rows(columns), row_bytes(rows)
        if begin == end:
            zero_vectors(sums, points * point_sums // VECTOR_BYTES)
        # groups of even sizes: the products' depth
        groups = (end - begin + group - 1) // group
        for number in range(groups):
            first = begin + number * (end - begin) // groups
            count = begin + (number + 1) * (end - begin) // groups - first
            transform_group(table, first, count, k_first, rows, c_first, columns, v, e, patch)
            for point in range(points):
                multiply_rows(
                    load_int(table, GEMM),
                    e + point * group * e_row,
                    e_row,
                    v + point * group * v_row,
                    v_row,
                    padded(count),
                    rows,
                    columns,
                    sums + point * point_sums,
                    number > 0,
                )
        target = load_int(table, WEIGHT)
        if shards > 1:
            target = load_int(table, PARTIAL) + shard * out_channels * channels * 36
        target += (k_first * channels + c_first) * 36
        write_region(table, sums, rows, columns, target, line)
        item = next_item(table)
