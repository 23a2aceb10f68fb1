"""Weight gradient of a 3x3, stride-1 convolution in Winograd form F(3x3, 4x4), deterministic.

Correlating a 4 x 4 tile of dY with the 6 x 6 tile of X under it gives a share of the gradient:
dW = sum over tiles of A^T [(G dY G^T) * (B^T X B)] A. The sum commutes with A, so per point it is a
product over the tiles, a quarter of the direct form's work:

    V (points, tiles, C vectors)      B^T X B, the transform of the forward pass
    E (points, tiles, K vectors)      G dY G^T
    M (points, k tiles, c tiles, rows, 2L) = E^T V, for one region of channels

All threads transform a group of tiles; then each takes regions of (k tiles) x (c tiles), whose M
stays in L2. Groups add up in order, whatever the threads.
"""

from .memory import zero_vectors
from .microkernel import call_gemm, tile_start
from .parallel import FIRST, helper, kernel, next_item
from .transforms import call_filter
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES, load_int
from .winograd import PATCH_VECTORS, transform_patch

(
    X,
    GRAD,
    WEIGHT,
    SCRATCH,
    V,
    E,
    M,
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
    FIRST_TILE,
    GROUP,
    REGION_ROWS,
    REGION_COLUMNS,
    REGION_STEP,
    INPUT_TRANSFORM,
    GRADIENT_TRANSFORM,
    FILTER_TRANSFORM,
    GEMM,
) = range(FIRST, FIRST + 26)

SIZE = 6
POINTS = 36
TILE = 4
"""Side of a tile of the output gradient."""

PATCH_BYTES = POINTS * PATCH_VECTORS * VECTOR_BYTES
SUMS_BYTES = TILE_ROWS * TILE_COLUMNS * 4


@helper
def row_bytes(channels: int) -> int:
    """Return the bytes of a tile's channels: an odd number of vectors, kind to the cache's sets."""
    return ((channels + LANES - 1) // LANES | 1) * VECTOR_BYTES


@helper
def vector_rows(channels: int) -> int:
    """Return the bytes of a tile's channels where whole column tiles are read."""
    vectors = (channels + TILE_COLUMNS - 1) // TILE_COLUMNS * 2
    return (vectors | 1) * VECTOR_BYTES


@kernel
def weight_winograd_inputs(table: int, thread: int, threads: int) -> None:
    """V and E of a group of tiles: an item is a tile of one of them."""
    group = load_int(table, GROUP)
    across, down = load_int(table, TILE_WIDTH), load_int(table, TILE_HEIGHT)
    channels, out_channels = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    padding = load_int(table, PADDING)
    patch = load_int(table, SCRATCH) + thread * PATCH_BYTES
    item = next_item(table)
    while item >= 0:
        tile = load_int(table, FIRST_TILE) + item // 2
        image = tile // (across * down)
        top = tile // across % down * TILE
        left = tile % across * TILE
        # a depth that is no multiple of the unrolling is filled up with zeros
        present = tile < load_int(table, TILES)
        if item % 2 == 0:
            row = vector_rows(channels)
            target = load_int(table, V) + item // 2 * row
            if present:
                transform_patch(
                    load_int(table, INPUT_TRANSFORM),
                    load_int(table, X),
                    load_int(table, HEIGHT),
                    load_int(table, WIDTH),
                    channels,
                    image,
                    top - padding,
                    left - padding,
                    SIZE,
                    target,
                    group * row,
                    VECTOR_BYTES,
                    patch,
                )
        else:
            row = row_bytes(out_channels)
            target = load_int(table, E) + item // 2 * row
            if present:
                transform_patch(
                    load_int(table, GRADIENT_TRANSFORM),
                    load_int(table, GRAD),
                    load_int(table, OUT_HEIGHT),
                    load_int(table, OUT_WIDTH),
                    out_channels,
                    image,
                    top,
                    left,
                    TILE,
                    target,
                    group * row,
                    VECTOR_BYTES,
                    patch,
                )
        if not present:
            for point in range(POINTS):
                zero_vectors(target + point * group * row, row // VECTOR_BYTES)
        item = next_item(table)


@kernel
def weight_winograd_regions(table: int, thread: int, threads: int) -> None:
    """Products of a group, and the gradient after the last one: an item is a region."""
    group = load_int(table, GROUP)
    first_tile = load_int(table, FIRST_TILE)
    channels, out_channels = load_int(table, CHANNELS), load_int(table, OUT_CHANNELS)
    k_tiles = (out_channels + TILE_ROWS - 1) // TILE_ROWS
    c_tiles = (channels + TILE_COLUMNS - 1) // TILE_COLUMNS
    region_rows, region_columns = load_int(table, REGION_ROWS), load_int(table, REGION_COLUMNS)
    regions_across = (c_tiles + region_columns - 1) // region_columns
    v_row, e_row = vector_rows(channels), row_bytes(out_channels)
    left = load_int(table, TILES) - first_tile
    depth = (min(group, left) + 3) // 4 * 4
    is_last = left <= group
    point_sums = region_rows * region_columns * SUMS_BYTES
    item = next_item(table)
    while item >= 0:
        k_first = item // regions_across * region_rows
        k_last = min(k_first + region_rows, k_tiles)
        c_first = item % regions_across * region_columns
        c_last = min(c_first + region_columns, c_tiles)
        # with a single group sums needn't survive the item: one place a thread stays in cache
        place = item
        if first_tile == 0 and is_last:
            place = thread
        sums = load_int(table, M) + place * load_int(table, REGION_STEP)
        for point in range(POINTS):
            for c_tile in range(c_first, c_last):
                for k_tile in range(k_first, k_last):
                    start = tile_start(out_channels, k_tile)
                    cell = (k_tile - k_first) * region_columns + c_tile - c_first
                    call_gemm(
                        load_int(table, GEMM),
                        tile_start(out_channels, k_tile + 1) - start,
                        load_int(table, E) + point * group * e_row + start * 4,
                        e_row,
                        load_int(table, V) + point * group * v_row + c_tile * TILE_COLUMNS * 4,
                        v_row,
                        sums + point * point_sums + cell * SUMS_BYTES,
                        TILE_COLUMNS * 4,
                        depth,
                        0,
                        first_tile > 0,
                    )
        if is_last:
            for k_tile in range(k_first, k_last):
                start = tile_start(out_channels, k_tile)
                for row in range(tile_start(out_channels, k_tile + 1) - start):
                    for c_tile in range(c_first, c_last):
                        cell = (k_tile - k_first) * region_columns + c_tile - c_first
                        for half in range(2):
                            channel = c_tile * TILE_COLUMNS + half * LANES
                            shift = (row * 2 + half) * VECTOR_BYTES
                            if channel < channels:
                                call_filter(
                                    load_int(table, FILTER_TRANSFORM),
                                    sums + cell * SUMS_BYTES + shift,
                                    point_sums,
                                    load_int(table, WEIGHT)
                                    + ((start + row) * channels + channel) * 36,
                                    12,
                                    4,
                                    36,
                                    channels - channel,
                                )
        item = next_item(table)
