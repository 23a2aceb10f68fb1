"""Weight gradient of a 3x3, stride-1 convolution in Winograd form F(3x3, 4x4), deterministic.

Correlating a 4 x 4 tile of dY with the 6 x 6 tile of X under it gives a share of the gradient:
dW = sum over tiles of A^T [(G dY G^T) * (B^T X B)] A. The sum commutes with A, so per point it is a
product over the tiles, a quarter of the direct form's work:

    V (points, tiles, C vectors)      B^T X B, the transform of the forward pass
    E (points, tiles, K vectors)      G dY G^T
    M (points, k tiles, c tiles, rows, 2L) = E^T V

An item owns a region of K x C and a shard of the tiles, and walks over its tiles in groups whose V
and E fit L2 beside M. It transforms what it needs itself, though items of the same tiles or
channels do so again: that costs less than fetching V and E from another core's cache. How many
shards there are depends on the shape alone; their gradients are added in order.
"""

from llvmlite import ir

from .memory import zero_vectors
from .microkernel import call_gemm, tile_start
from .parallel import FIRST, helper, kernel, next_item
from .rows import Lane, emit_vectors
from .transforms import call_filter
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES, Emitter, ir_kernel, load_int
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
) = range(FIRST, FIRST + 24)

SIZE = 6
POINTS = 36
TILE = 4
"""Side of a tile of the output gradient."""

PATCH_BYTES = POINTS * PATCH_VECTORS * VECTOR_BYTES
SUMS_BYTES = TILE_ROWS * TILE_COLUMNS * 4

REDUCED = 16 * 1024
"""Weights in an item of the sum over shards."""


@helper
def row_bytes(channels: int) -> int:
    """Return the bytes of a tile's channels: an odd number of vectors, kind to the cache's sets."""
    return ((channels + LANES - 1) // LANES | 1) * VECTOR_BYTES


@helper
def vector_rows(channels: int) -> int:
    """Return the bytes of a tile's channels where whole column tiles are read."""
    vectors = (channels + TILE_COLUMNS - 1) // TILE_COLUMNS * 2
    return (vectors | 1) * VECTOR_BYTES


@helper
def region_sums(rows: int, columns: int) -> int:
    """Return the bytes of a point's M for a region of K x C channels."""
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    c_tiles = (columns + TILE_COLUMNS - 1) // TILE_COLUMNS
    return k_tiles * c_tiles * SUMS_BYTES


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
    group = load_int(table, GROUP)
    v_row, e_row = vector_rows(columns), row_bytes(rows)
    for number in range(count):
        tile = first + number
        image = tile // (across * down)
        top = tile // across % down * TILE
        left = tile % across * TILE
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
            SIZE,
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
            TILE,
            e + number * e_row,
            group * e_row,
            VECTOR_BYTES,
            patch,
        )
    # a depth that is no multiple of the unrolling is filled up with zeros
    missing = (count + 3) // 4 * 4 - count
    for point in range(POINTS):
        place = point * group + count
        zero_vectors(v + place * v_row, missing * (v_row // VECTOR_BYTES))
        zero_vectors(e + place * e_row, missing * (e_row // VECTOR_BYTES))


@helper
def multiply_group(
    table: int, count: int, rows: int, columns: int, v: int, e: int, sums: int, accumulate: int
) -> None:
    """M = [M +] E^T V of a group of `count` tiles."""
    group = load_int(table, GROUP)
    v_row, e_row = vector_rows(columns), row_bytes(rows)
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    c_tiles = (columns + TILE_COLUMNS - 1) // TILE_COLUMNS
    target = sums
    for point in range(POINTS):
        for c_tile in range(c_tiles):
            for k_tile in range(k_tiles):
                start = tile_start(rows, k_tile)
                call_gemm(
                    load_int(table, GEMM),
                    tile_start(rows, k_tile + 1) - start,
                    e + point * group * e_row + start * 4,
                    e_row,
                    v + point * group * v_row + c_tile * TILE_COLUMNS * 4,
                    v_row,
                    target,
                    TILE_COLUMNS * 4,
                    (count + 3) // 4 * 4,
                    0,
                    accumulate,
                )
                target += SUMS_BYTES


@helper
def write_filters(table: int, sums: int, rows: int, columns: int, target: int) -> None:
    """Write the taps of a region from M; `target` is its first filter."""
    channels = load_int(table, CHANNELS)
    point_sums = region_sums(rows, columns)
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    for channel in range(0, columns, LANES):
        cell = sums + channel // TILE_COLUMNS * k_tiles * SUMS_BYTES
        for k_tile in range(k_tiles):
            start = tile_start(rows, k_tile)
            for row in range(tile_start(rows, k_tile + 1) - start):
                call_filter(
                    load_int(table, FILTER_TRANSFORM),
                    cell + row * TILE_COLUMNS * 4 + channel % TILE_COLUMNS * 4,
                    point_sums,
                    target + ((start + row) * channels + channel) * 36,
                    12,
                    4,
                    36,
                    columns - channel,
                )
            cell += SUMS_BYTES


@kernel
def weight_winograd(table: int, thread: int, threads: int) -> None:
    """The gradient of a region of channels over a shard of the tiles: an item is both."""
    group, shards = load_int(table, GROUP), load_int(table, SHARDS)
    channels, out_channels = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    region_rows, region_columns = load_int(table, REGION_ROWS), load_int(table, REGION_COLUMNS)
    across = (channels + region_columns - 1) // region_columns
    tiles = load_int(table, TILES)

    patch = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    v = patch + PATCH_BYTES
    e = v + POINTS * group * vector_rows(region_columns)
    sums = e + POINTS * group * row_bytes(region_rows)
    item = next_item(table)
    while item >= 0:
        shard = item % shards
        k_first = item // shards // across * region_rows
        c_first = item // shards % across * region_columns
        rows = min(region_rows, out_channels - k_first)
        columns = min(region_columns, channels - c_first)
        begin, end = shard * tiles // shards, (shard + 1) * tiles // shards
        if begin == end:
            zero_vectors(sums, POINTS * region_sums(rows, columns) // VECTOR_BYTES)
        # groups of even sizes: the products' depth
        groups = (end - begin + group - 1) // group
        for number in range(groups):
            first = begin + number * (end - begin) // groups
            count = begin + (number + 1) * (end - begin) // groups - first
            transform_group(table, first, count, k_first, rows, c_first, columns, v, e, patch)
            multiply_group(table, count, rows, columns, v, e, sums, number > 0)
        target = load_int(table, WEIGHT)
        if shards > 1:
            target = load_int(table, PARTIAL) + shard * out_channels * channels * 36
        write_filters(table, sums, rows, columns, target + (k_first * channels + c_first) * 36)
        item = next_item(table)


def _add_shards(
    e: Emitter,
    count: ir.Value,
    shards: ir.Value,
    step: ir.Value,
    source: ir.Value,
    target: ir.Value,
) -> None:
    """Emit target = the sum of `count` floats of every shard, `step` bytes apart."""

    def body(lane: Lane, pointers: list[ir.Value]) -> None:
        place, out = pointers
        turn = e.loop(shards, [place, e.constant(0.0)])
        here, total = turn.values
        _, total = turn.close([e.shift(here, step), e.add(total, lane.load(here))])
        lane.store(total, out)

    emit_vectors(e, count, [source, target], body)


add_shards = ir_kernel("add_shards", "iiipp", _add_shards)


@kernel
def weight_winograd_reduce(table: int, thread: int, threads: int) -> None:
    """Add up the shards: an item is some of the weights."""
    weights = load_int(table, OUT_CHANNELS) * load_int(table, CHANNELS) * 9
    item = next_item(table)
    while item >= 0:
        first = item * REDUCED
        add_shards(
            min(REDUCED, weights - first),
            load_int(table, SHARDS),
            weights * 4,
            load_int(table, PARTIAL) + first * 4,
            load_int(table, WEIGHT) + first * 4,
        )
        item = next_item(table)
