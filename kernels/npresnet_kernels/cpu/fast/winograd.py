"""Fused Winograd convolution of 3x3 filters, stride 1, float32 NHWC.

A block of tiles goes through three stages while it sits in L2: the input transform writes V, n^2
small matrix products make M = V U a group of output channels at a time, the output transform adds
bias and residual, clamps and writes y. Layouts, L lanes to a vector:

    V (points, C / L, tiles, L)                what the microkernel reads as its left operand
    U (points, K / 2L, C, 2L)                  weights, transformed and packed once
    M (tiles, points, columns of the group, 2L)

Three schedules give the same bits, as a tile's arithmetic knows nothing of its neighbours: on maps
with many tiles a thread takes whole blocks; where one block holds all tiles and no L2 the weights,
each thread takes groups of output channels, so that the weights are read once, and has a V of its
own; else, with few tiles for so many threads, groups of channels are taken from a V that all share.

F(4x4, 3x3) makes four times as many numbers of the weights. Where no L2 holds them, reading U costs
more than making it: then the weights stay as they are, (K, C, 3, 3), and a thread transforms a
chunk of the depth of its group into its own L2, just before it multiplies by it. Where there are a
few tiles only, weights transformed in one direction are read instead; see `half`.
"""

from .half import TAPS, multiply_half
from .memory import copy_in, copy_out, zero_vectors
from .microkernel import chunk_length, multiply_block
from .parallel import FIRST, helper, kernel, next_item
from .sums import call_sums
from .transforms import call_input, call_output, call_weight
from .vector import LANES, TILE_COLUMNS, VECTOR_BYTES, hand_on, load_int, store_int

(
    X,
    WEIGHT,
    Y,
    BIAS,
    RESIDUAL,
    HAS_RESIDUAL,
    FLOOR,
    SCRATCH,
    THREAD_SCRATCH,
    SHARED,
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
    FIRST_TILE,
    BLOCK,
    GROUP,
    INPUT_TRANSFORM,
    OUTPUT_TRANSFORM,
    GEMM,
    WEIGHT_TRANSFORM,
    LANE_STEP,
    DEPTH_STEP,
    ROW_STEP,
    TAP_STEP,
    REMAINING,
    PARTIAL,
    SUMS,
    LOW,
    HIGH,
    SLOTS,
) = range(FIRST, FIRST + 40)

PATCH_VECTORS = 4
"""Vectors of channels that a padded copy of an edge tile holds at a time."""


@helper
def point_step(channels: int, tiles: int) -> int:
    """Return the bytes from one point of V to the next.

    Odd in vectors, so that a tile's points don't all fall into one set of the cache.
    """
    vectors = (channels + LANES - 1) // LANES * tiles
    return (vectors | 1) * VECTOR_BYTES


@helper
def transform_patch(
    transform: int,
    array: int,
    height: int,
    width: int,
    stored: int,
    channels: int,
    image: int,
    top: int,
    left: int,
    size: int,
    target: int,
    between_points: int,
    between_vectors: int,
    patch: int,
) -> None:
    """Transform the `size` x `size` pixels of an image from (top, left) on, 0 outside of it.

    The first `channels` channels from `array` on, of the `stored` that a pixel has.
    Vector v of point i goes to target + i * between_points + v * between_vectors; `patch` is
    scratch.
    """
    pixel = 4 * stored
    source = array + ((image * height + top) * width + left) * pixel
    inside = top >= 0 and left >= 0 and top + size <= height and left + size <= width
    done = 0
    if inside:
        done = channels // LANES
        call_input(
            transform, source, width * pixel, pixel, target, between_points, done, between_vectors
        )
    # edge tiles, and the channels that don't fill a vector, go through a padded copy
    start = done * LANES
    while start < channels:
        count = min(PATCH_VECTORS * LANES, channels - start)
        vectors = (count + LANES - 1) // LANES
        step = vectors * VECTOR_BYTES
        for i in range(size):
            for j in range(size):
                place = patch + (i * size + j) * step
                if 0 <= top + i < height and 0 <= left + j < width:
                    copy_in(source + (i * width + j) * pixel + 4 * start, place, count)
                else:
                    zero_vectors(place, vectors)
        call_input(
            transform,
            patch,
            size * step,
            step,
            target + start // LANES * between_vectors,
            between_points,
            vectors,
            between_vectors,
        )
        start += count


@helper
def transform_tile(table: int, tile: int, target: int, tiles: int, patch: int) -> None:
    """Write V of one tile, `target` its column in a V of `tiles` tiles; `patch` is scratch."""
    channels = load_int(table, CHANNELS)
    outputs = load_int(table, OUTPUTS)
    across = load_int(table, TILE_WIDTH)
    down = load_int(table, TILE_HEIGHT)
    padding = load_int(table, PADDING)
    transform_patch(
        load_int(table, INPUT_TRANSFORM),
        load_int(table, X),
        load_int(table, HEIGHT),
        load_int(table, WIDTH),
        channels,
        channels,
        tile // (across * down),
        tile // across % down * outputs - padding,
        tile % across * outputs - padding,
        load_int(table, SIDE),
        target,
        point_step(channels, tiles),
        tiles * VECTOR_BYTES,
        patch,
    )


@helper
def finish_tile(table: int, tile: int, points: int, column: int, columns: int, patch: int) -> None:
    """Write y for one tile and `columns` column tiles of channels from `column` on.

    `points` is the tile's M for those channels.
    """
    out_height = load_int(table, OUT_HEIGHT)
    out_width = load_int(table, OUT_WIDTH)
    out_channels = load_int(table, OUT_CHANNELS)
    outputs = load_int(table, OUTPUTS)
    across = load_int(table, TILE_WIDTH)
    down = load_int(table, TILE_HEIGHT)
    has_residual = load_int(table, HAS_RESIDUAL)
    image = tile // (across * down)
    top = tile // across % down * outputs
    left = tile % across * outputs
    first = column * TILE_COLUMNS
    pixel = 4 * out_channels
    place = ((image * out_height + top) * out_width + left) * pixel + 4 * first
    target = load_int(table, Y) + place
    residual = load_int(table, RESIDUAL) + has_residual * place
    vectors = columns * 2
    step = vectors * VECTOR_BYTES
    count = min(columns * TILE_COLUMNS, out_channels - first)
    rows = min(outputs, out_height - top)
    row_length = min(outputs, out_width - left)
    whole = rows == outputs and row_length == outputs and count == vectors * LANES

    y, y_row, y_pixel = target, out_width * pixel, pixel
    r, r_row, r_pixel = residual, has_residual * y_row, has_residual * y_pixel
    if not whole:
        # what hangs over the edge is made in scratch, and only what exists is copied
        y, y_row, y_pixel = patch, outputs * step, step
        if has_residual:
            r = patch + outputs * outputs * step
            r_row, r_pixel = y_row, y_pixel
            for i in range(rows):
                for j in range(row_length):
                    source = residual + (i * out_width + j) * pixel
                    copy_in(source, r + (i * outputs + j) * step, count)
    call_output(
        load_int(table, OUTPUT_TRANSFORM),
        points,
        step,
        load_int(table, BIAS) + 4 * first,
        load_int(table, FLOOR),
        r,
        r_row,
        r_pixel,
        has_residual * VECTOR_BYTES,
        y,
        y_row,
        y_pixel,
        vectors,
    )
    if not whole:
        for i in range(rows):
            for j in range(row_length):
                source = patch + (i * outputs + j) * step
                copy_out(source, target + (i * out_width + j) * pixel, count)


@helper
def multiply_packed(
    table: int, tiles: int, stored: int, v: int, column: int, columns: int, products: int
) -> None:
    """Make M of `tiles` tiles for `columns` column tiles from `column` on, from U in memory."""
    channels = load_int(table, CHANNELS)
    points = load_int(table, POINTS)
    all_columns = (load_int(table, OUT_CHANNELS) + TILE_COLUMNS - 1) // TILE_COLUMNS
    depth = (channels + 3) // 4 * 4
    weight_step = depth * TILE_COLUMNS * 4
    product_step = columns * TILE_COLUMNS * 4
    weights = load_int(table, WEIGHT) + column * weight_step
    for point in range(points):
        following = weights + (point + 1) * all_columns * weight_step
        if point + 1 == points:
            following = weights + columns * weight_step
        multiply_block(
            load_int(table, GEMM),
            v + point * point_step(channels, stored),
            stored * VECTOR_BYTES,
            weights + point * all_columns * weight_step,
            weight_step,
            products + point * product_step,
            points * product_step,
            TILE_COLUMNS * 4,
            tiles,
            depth,
            columns,
            following,
            0,
            0,
        )


@helper
def panel_step(depth: int, columns: int) -> int:
    """Return the bytes from one point to the next of a chunk of U, odd in vectors: see V."""
    return (2 * depth * columns | 1) * VECTOR_BYTES


@helper
def make_weights(
    table: int, column: int, columns: int, start: int, count: int, between: int, u: int
) -> None:
    """Write U of `columns` column tiles from `column` on, for `count` channels from `start` on.

    It is (points, columns, count, 2L) at `u`, its points `between` bytes apart.
    """
    lane_step, depth_step = load_int(table, LANE_STEP), load_int(table, DEPTH_STEP)
    row = TILE_COLUMNS * 4
    for vector in range(2 * columns):
        lane = column * TILE_COLUMNS + vector * LANES
        call_weight(
            load_int(table, WEIGHT_TRANSFORM),
            load_int(table, WEIGHT) + lane * lane_step + start * depth_step,
            load_int(table, ROW_STEP),
            load_int(table, TAP_STEP),
            lane_step,
            load_int(table, OUT_CHANNELS) - lane,
            u + vector // 2 * count * row + vector % 2 * VECTOR_BYTES,
            between,
            count,
            depth_step,
            row,
        )


@helper
def multiply_plain(
    table: int, tiles: int, stored: int, v: int, column: int, columns: int, products: int, u: int
) -> None:
    """Make M as `multiply_packed` does, with U made chunk by chunk at `u` from the weights."""
    depth = load_int(table, CHANNELS)
    points = load_int(table, POINTS)
    row = TILE_COLUMNS * 4
    product_step = columns * row
    chunk = chunk_length(depth)
    for start in range(0, depth, chunk):
        count = min(chunk, depth - start)
        between = panel_step(count, columns)
        make_weights(table, column, columns, start, count, between, u)
        for point in range(points):
            panel = u + point * between
            multiply_block(
                load_int(table, GEMM),
                v + point * point_step(depth, stored) + start // LANES * stored * VECTOR_BYTES,
                stored * VECTOR_BYTES,
                panel,
                count * row,
                products + point * product_step,
                points * product_step,
                row,
                tiles,
                count,
                columns,
                panel + between,
                0,
                start > 0,
            )


@helper
def multiply_halves(
    table: int, tiles: int, stored: int, v: int, column: int, columns: int, products: int
) -> None:
    """Make M as `multiply_packed` does, from weights transformed in one direction."""
    channels = load_int(table, CHANNELS)
    side = load_int(table, SIDE)
    row = columns * TILE_COLUMNS * 4
    for vector in range(2 * columns):
        half = (column * 2 + vector) * side * channels * TAPS * VECTOR_BYTES
        multiply_half(
            load_int(table, LOW),
            load_int(table, HIGH),
            v,
            stored * VECTOR_BYTES,
            point_step(channels, stored),
            load_int(table, WEIGHT) + half,
            products + vector * VECTOR_BYTES,
            load_int(table, POINTS) * row,
            row,
            tiles,
            channels,
            side,
        )


@helper
def sum_finished(table: int, first: int, tiles: int, columns: int) -> None:
    """Sum up the bands of output rows that these tiles' `columns` column tiles have completed.

    A band is what a row of tiles covers of an image: rows that lie together. Whoever completes it
    adds it up in order, while most of it is in a cache; so who that is changes nothing.
    """
    remaining = load_int(table, REMAINING)
    if remaining:
        across = load_int(table, TILE_WIDTH)
        down = load_int(table, TILE_HEIGHT)
        out_width = load_int(table, OUT_WIDTH)
        channels = load_int(table, OUT_CHANNELS)
        all_tiles = across * ((channels + TILE_COLUMNS - 1) // TILE_COLUMNS)
        for band in range(first // across, (first + tiles - 1) // across + 1):
            done = min(first + tiles, (band + 1) * across) - max(first, band * across)
            done *= columns
            if hand_on(remaining + 8 * band, -done) == done:
                store_int(remaining, band, all_tiles)  # as it was, for a run that is repeated
                top = band % down * load_int(table, OUTPUTS)
                row = band // down * load_int(table, OUT_HEIGHT) + top
                call_sums(
                    load_int(table, SUMS),
                    min(load_int(table, OUTPUTS), load_int(table, OUT_HEIGHT) - top) * out_width,
                    channels,
                    load_int(table, PARTIAL) + band * channels * 16,
                    load_int(table, Y) + row * out_width * channels * 4,
                )


@helper
def multiply_tiles(
    table: int, first: int, tiles: int, stored: int, v: int, group: int, products: int, patch: int
) -> None:
    """Make M and y of `tiles` tiles from `first` on, for group number `group` of channels.

    `v` is their V, in an array of `stored` tiles; `products` is room for M, and behind it for a
    chunk of U where that isn't stored.
    """
    points = load_int(table, POINTS)
    all_columns = (load_int(table, OUT_CHANNELS) + TILE_COLUMNS - 1) // TILE_COLUMNS
    column = group * load_int(table, GROUP)
    columns = min(load_int(table, GROUP), all_columns - column)
    tile_bytes = points * columns * TILE_COLUMNS * 4
    if load_int(table, WEIGHT_TRANSFORM):
        u = products + load_int(table, BLOCK) * points * load_int(table, GROUP) * TILE_COLUMNS * 4
        multiply_plain(table, tiles, stored, v, column, columns, products, u)
    elif load_int(table, LOW):
        multiply_halves(table, tiles, stored, v, column, columns, products)
    else:
        multiply_packed(table, tiles, stored, v, column, columns, products)
    for tile in range(tiles):
        finish_tile(table, first + tile, products + tile * tile_bytes, column, columns, patch)
    sum_finished(table, first, tiles, columns)


@helper
def thread_areas(table: int, thread: int, v_bytes: int) -> tuple[int, int, int]:
    """Return where a thread's V, patch and M begin."""
    side = load_int(table, SIDE)
    own = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    outputs = load_int(table, OUTPUTS)
    group = load_int(table, GROUP)
    vectors = max(side * side * PATCH_VECTORS, 2 * outputs * outputs * group * 2)
    return own, own + v_bytes, own + v_bytes + vectors * VECTOR_BYTES


@helper
def group_count(table: int) -> int:
    """Return how many groups the output channels make."""
    all_columns = (load_int(table, OUT_CHANNELS) + TILE_COLUMNS - 1) // TILE_COLUMNS
    group = load_int(table, GROUP)
    return (all_columns + group - 1) // group


@kernel
def winograd_blocks(table: int, thread: int, threads: int) -> None:
    """All three stages of a block of tiles: an item is a block."""
    block = load_int(table, BLOCK)
    points = load_int(table, POINTS)
    v_bytes = points * point_step(load_int(table, CHANNELS), block)
    v, patch, products = thread_areas(table, thread, v_bytes)
    item = next_item(table)
    while item >= 0:
        first = item * block
        tiles = min(block, load_int(table, TILES) - first)
        for tile in range(tiles):
            transform_tile(table, first + tile, v + tile * VECTOR_BYTES, block, patch)
        for group in range(group_count(table)):
            multiply_tiles(table, first, tiles, block, v, group, products, patch)
        item = next_item(table)


@kernel
def winograd_channels(table: int, thread: int, threads: int) -> None:
    """All three stages of one block of tiles: an item is a group of channels.

    Each thread transforms all tiles for itself: that takes less time than V from another core.
    """
    block = load_int(table, BLOCK)
    points = load_int(table, POINTS)
    v_bytes = points * point_step(load_int(table, CHANNELS), block)
    v, patch, products = thread_areas(table, thread, v_bytes)
    item = next_item(table)
    if item >= 0:
        for tile in range(block):
            transform_tile(table, tile, v + tile * VECTOR_BYTES, block, patch)
    while item >= 0:
        multiply_tiles(table, 0, block, block, v, item, products, patch)
        item = next_item(table)


@kernel
def winograd_inputs(table: int, thread: int, threads: int) -> None:
    """The input transform alone, into a V that all threads share: an item is a tile."""
    block = load_int(table, BLOCK)
    _, patch, _ = thread_areas(table, thread, 0)
    item = next_item(table)
    while item >= 0:
        tile = load_int(table, FIRST_TILE) + item
        transform_tile(table, tile, load_int(table, SHARED) + item * VECTOR_BYTES, block, patch)
        item = next_item(table)


@kernel
def winograd_groups(table: int, thread: int, threads: int) -> None:
    """Products and output transform from the shared V: an item is a group of channels."""
    block = load_int(table, BLOCK)
    first = load_int(table, FIRST_TILE)
    _, patch, products = thread_areas(table, thread, 0)
    tiles = min(block, load_int(table, TILES) - first)
    item = next_item(table)
    while item >= 0:
        multiply_tiles(table, first, tiles, block, load_int(table, SHARED), item, products, patch)
        item = next_item(table)
