"""Direct convolution, float32 NHWC: any kernel, stride and padding.

A block of output pixels is gathered into a left operand that sits in L2 and multiplied by the
packed weights; the whole (N, P, Q, R * S * C) matrix of im2col is never there. Layouts, L lanes:

    A (depth / L, rows, L)        depth = R * S * C, taps outer, channels inner; rows = pixels
    B (K / 2L, depth, 2L)         packed weights
    M (rows, columns * 2L)

The kernel computes the grid of outputs  y[top' + step' i, left' + step' j]  from the inputs
x[top + step i + r, left + step j + s]: a forward convolution is one such grid with step' = 1; the
data gradient of stride t is t^2 of them, each with the taps that reach its outputs.

On tiny maps most taps see only padding. There each output pixel is a problem of its own whose
rows are images, and the taps outside are no work at all.
"""

from .finish import call_finish
from .memory import copy_in, copy_rows, spread_vectors, spread_zeros, zero_vectors
from .microkernel import WANTED_BYTES, WANTED_RANGES, multiply_block
from .packing import padded_depth
from .parallel import FIRST, helper, kernel, next_item
from .vector import LANES, TILE_COLUMNS, VECTOR_BYTES, load_int, store_int

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
    IMAGES,
    HEIGHT,
    WIDTH,
    CHANNELS,
    TOP,
    LEFT,
    STEP,
    TAP_ROWS,
    TAP_COLUMNS,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUT_CHANNELS,
    OUT_TOP,
    OUT_LEFT,
    OUT_STEP,
    GRID_HEIGHT,
    GRID_WIDTH,
    BLOCK,
    PARTS,
    BY_PIXEL,
    ROWS,
    FETCH,
    GEMM,
    FINISH,
    PARTIAL,
    SLOTS,
) = range(FIRST, FIRST + 35)


@helper
def gather_pixel(
    table: int,
    image: int,
    i: int,
    j: int,
    first_row: int,
    rows: int,
    first_tap: int,
    taps: int,
    target: int,
    step: int,
    flat: int,
) -> None:
    """Write the depth of one output pixel as vectors `step` bytes apart, from tap rows given.

    `rows` tap rows from `first_row` on, and in each `taps` taps from `first_tap` on. Channels that
    don't fill vectors can't be written so: then the depth goes to `flat`, dense, and is still to
    be spread. Spreading it here would load what was stored just before at another alignment, and
    wait for that.
    """
    height = load_int(table, HEIGHT)
    width = load_int(table, WIDTH)
    channels = load_int(table, CHANNELS)
    top = load_int(table, TOP) + load_int(table, STEP) * i + first_row
    left = load_int(table, LEFT) + load_int(table, STEP) * j + first_tap
    # taps [low, high) of a row lie inside the map
    low = min(max(-left, 0), taps)
    high = max(min(width - left, taps), low)
    pixel = load_int(table, X) + ((image * height + top) * width + left) * channels * 4
    if channels % LANES == 0:
        vectors = channels // LANES
        for r in range(rows):
            place = target + r * taps * vectors * step
            if 0 <= top + r < height:
                source = pixel + (r * width + low) * channels * 4
                spread_zeros(place, low * vectors, step)
                spread_vectors(source, place + low * vectors * step, (high - low) * vectors, step)
                spread_zeros(place + high * vectors * step, (taps - high) * vectors, step)
            else:
                spread_zeros(place, taps * vectors, step)
    else:
        # runs that don't end at a vector overhang; the next run writes over that
        run = taps * channels
        row_step = width * channels * 4
        if top >= 0 and top + rows <= height and high - low == taps:
            copy_rows(pixel, row_step, flat, run * 4, run, rows)
        else:
            zero_vectors(flat, (rows * run + LANES - 1) // LANES)
            for r in range(rows):
                if 0 <= top + r < height:
                    source = pixel + r * row_step + low * channels * 4
                    copy_in(source, flat + (r * run + low * channels) * 4, (high - low) * channels)
                    # what overhangs is zeros, as is what it hangs over
        # the depth is rounded up; what follows it must be numbers
        zero_vectors(flat + rows * run * 4, 1)


@helper
def flat_bytes(rows: int, taps: int, channels: int) -> int:
    """Return the bytes of a pixel's dense depth, with room for its overhang."""
    if channels % LANES == 0:
        return 0
    return ((rows * taps * channels + 2 * LANES) // LANES + 1) * VECTOR_BYTES


@helper
def gather_block(
    table: int,
    first: int,
    rows: int,
    by_pixel: int,
    first_row: int,
    tap_rows: int,
    first_tap: int,
    taps: int,
    a: int,
    flat: int,
) -> None:
    """Write A for `rows` rows from row `first` on; rows count images if `by_pixel` >= 0."""
    grid_width = load_int(table, GRID_WIDTH)
    flat_step = flat_bytes(tap_rows, taps, load_int(table, CHANNELS))
    grid = load_int(table, GRID_HEIGHT) * grid_width
    # counted on, not divided anew for each row: a division costs as much as some vectors
    image, place = first, by_pixel
    if by_pixel < 0:
        image, place = first // grid, first % grid
    i, j = place // grid_width, place % grid_width
    for row in range(rows):
        gather_pixel(
            table,
            image,
            i,
            j,
            first_row,
            tap_rows,
            first_tap,
            taps,
            a + row * VECTOR_BYTES,
            rows * VECTOR_BYTES,
            flat + row * flat_step,
        )
        if by_pixel >= 0:
            image += 1
        else:
            j += 1
            if j == grid_width:
                i, j = i + 1, 0
                if i * grid_width == grid:
                    image, i = image + 1, 0
    if load_int(table, CHANNELS) % LANES:
        vectors = (tap_rows * taps * load_int(table, CHANNELS) + LANES - 1) // LANES
        for row in range(rows):
            spread_vectors(
                flat + row * flat_step, a + row * VECTOR_BYTES, vectors, rows * VECTOR_BYTES
            )


@helper
def finish_block(
    table: int,
    first: int,
    rows: int,
    by_pixel: int,
    column: int,
    columns: int,
    products: int,
    band: int,
) -> None:
    """Write y of some rows and columns from M: bias, residual, clamp; sums, if asked, of a band.

    A band is a block, cut by the layer's shape alone: sums don't depend on who does which.
    """
    grid_width = load_int(table, GRID_WIDTH)
    grid = load_int(table, GRID_HEIGHT) * grid_width
    out_width = load_int(table, OUT_WIDTH)
    out_map = load_int(table, OUT_HEIGHT) * out_width
    pixel = load_int(table, OUT_CHANNELS) * 4
    has_residual = load_int(table, HAS_RESIDUAL)
    out_step = load_int(table, OUT_STEP)
    shift = column * TILE_COLUMNS * 4
    step = out_step * pixel
    # rows at equal steps: images, all of the block where the grid is the map, or a row's pixels
    whole = by_pixel >= 0 or (out_step == 1 and grid == out_map)
    if by_pixel >= 0:
        step = out_map * pixel
    done = 0
    while done < rows:
        image, place = first + done, by_pixel
        if by_pixel < 0:
            image, place = (first + done) // grid, (first + done) % grid
        i = load_int(table, OUT_TOP) + place // grid_width * out_step
        j = load_int(table, OUT_LEFT) + place % grid_width * out_step
        count = rows - done
        if not whole:
            count = min(count, grid_width - place % grid_width)
        offset = (image * out_map + i * out_width + j) * pixel + shift
        call_finish(
            load_int(table, FINISH),
            count,
            min(columns * TILE_COLUMNS, load_int(table, OUT_CHANNELS) - column * TILE_COLUMNS),
            products + done * columns * TILE_COLUMNS * 4,
            columns * TILE_COLUMNS * 4,
            load_int(table, BIAS) + shift,
            load_int(table, FLOOR),
            load_int(table, RESIDUAL) + has_residual * offset,
            has_residual * step,
            load_int(table, Y) + offset,
            step,
            load_int(table, PARTIAL) + band * 4 * pixel + 2 * shift,
            2 * pixel,
        )
        done += count


@helper
def place_of(table: int, number: int, last: int) -> tuple[int, int]:
    """Return the offsets in x and y of what an output reads first, or with `last` reads last.

    In x that is the first channel of the first or last of its taps that lie inside.
    """
    grid_width = load_int(table, GRID_WIDTH)
    grid = load_int(table, GRID_HEIGHT) * grid_width
    height, width = load_int(table, HEIGHT), load_int(table, WIDTH)
    image, place = number // grid, number % grid
    i, j = place // grid_width, place % grid_width
    row = load_int(table, TOP) + load_int(table, STEP) * i + last * (load_int(table, TAP_ROWS) - 1)
    left = load_int(table, LEFT) + load_int(table, STEP) * j
    left += last * (load_int(table, TAP_COLUMNS) - 1)
    row, left = min(max(row, 0), height - 1), min(max(left, 0), width - 1)
    x = ((image * height + row) * width + left) * load_int(table, CHANNELS) * 4
    i = load_int(table, OUT_TOP) + i * load_int(table, OUT_STEP)
    j = load_int(table, OUT_LEFT) + j * load_int(table, OUT_STEP)
    pixel = (image * load_int(table, OUT_HEIGHT) + i) * load_int(table, OUT_WIDTH) + j
    return x, pixel * load_int(table, OUT_CHANNELS) * 4


@helper
def list_wanted(table: int, first: int, rows: int, wanted: int) -> None:
    """List what a block of outputs will read and write: x, y and residual. No rows, no bytes."""
    for number in range(2 * WANTED_RANGES):
        store_int(wanted, number, 0)
    if rows <= 0:
        return
    x, y = place_of(table, first, 0)
    x_end, y_end = place_of(table, first + rows - 1, 1)
    x_end += load_int(table, CHANNELS) * 4
    y_end += load_int(table, OUT_CHANNELS) * 4
    # where steps leave gaps, most of a range would be fetched for nothing
    if load_int(table, STEP) <= load_int(table, TAP_ROWS):
        store_int(wanted, 0, load_int(table, X) + x)
        store_int(wanted, 1, x_end - x)
    if load_int(table, OUT_STEP) == 1:
        store_int(wanted, 2, load_int(table, Y) + y)
        store_int(wanted, 3, y_end - y)
        if load_int(table, HAS_RESIDUAL):
            store_int(wanted, 4, load_int(table, RESIDUAL) + y)
            store_int(wanted, 5, y_end - y)


@kernel
def direct_blocks(table: int, thread: int, threads: int) -> None:
    """All stages of a block of pixels: an item is a block and a part of the output channels."""
    block = load_int(table, BLOCK)
    parts = load_int(table, PARTS)
    channels = load_int(table, CHANNELS)
    all_rows = load_int(table, TAP_ROWS)
    all_taps = load_int(table, TAP_COLUMNS)
    grid_width = load_int(table, GRID_WIDTH)
    grid = load_int(table, GRID_HEIGHT) * grid_width
    pixels = load_int(table, IMAGES)
    problems = grid
    if not load_int(table, BY_PIXEL):
        pixels *= grid
        problems = 1
    depth = padded_depth(all_rows * all_taps * channels)
    all_columns = (load_int(table, OUT_CHANNELS) + TILE_COLUMNS - 1) // TILE_COLUMNS

    wanted = load_int(table, SCRATCH) + thread * load_int(table, THREAD_SCRATCH)
    a = wanted + WANTED_BYTES
    flat = a + (depth + LANES) // LANES * block * VECTOR_BYTES
    products = flat + block * flat_bytes(all_rows, all_taps, channels)
    item = next_item(table)
    while item >= 0:
        part = item % parts
        problem = item // parts % problems
        first = item // parts // problems * block
        rows = min(block, pixels - first)
        column = part * all_columns // parts
        columns = (part + 1) * all_columns // parts - column

        by_pixel = -1
        first_row, tap_rows, first_tap, taps = 0, all_rows, 0, all_taps
        runs, run = 1, depth
        if problems > 1 or load_int(table, BY_PIXEL):
            by_pixel = problem
            top = load_int(table, TOP) + load_int(table, STEP) * (problem // grid_width)
            left = load_int(table, LEFT) + load_int(table, STEP) * (problem % grid_width)
            first_row = min(max(-top, 0), all_rows)
            tap_rows = max(min(all_rows, load_int(table, HEIGHT) - top) - first_row, 0)
            first_tap = min(max(-left, 0), all_taps)
            taps = max(min(all_taps, load_int(table, WIDTH) - left) - first_tap, 0)
            runs, run = max(tap_rows, 1), taps * channels * (tap_rows > 0)
        gather_block(table, first, rows, by_pixel, first_row, tap_rows, first_tap, taps, a, flat)
        fetch = 0
        if load_int(table, FETCH):
            # most likely this thread's next block
            following = first + threads * block
            list_wanted(table, following, min(block, pixels - following), wanted)
            fetch = wanted
        # one run of depth, or one for each row of the taps in use
        for number in range(runs):
            place = ((first_row + number) * all_taps + first_tap) * channels * (by_pixel >= 0)
            multiply_block(
                load_int(table, GEMM),
                a + number * run // LANES * rows * VECTOR_BYTES,
                rows * VECTOR_BYTES,
                load_int(table, WEIGHT) + (column * depth + place) * TILE_COLUMNS * 4,
                depth * TILE_COLUMNS * 4,
                products,
                columns * TILE_COLUMNS * 4,
                TILE_COLUMNS * 4,
                rows,
                run,
                columns,
                load_int(table, WEIGHT) + column * depth * TILE_COLUMNS * 4,
                fetch,
                number > 0,
            )
        finish_block(table, first, rows, by_pixel, column, columns, products, item // parts)
        item = next_item(table)
