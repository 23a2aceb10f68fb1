"""Weights (K, C, R, S) in the layouts that the kernels read, made anew each training step.

Both layouts put 2L output channels side by side, zeros beyond the last. The gradient's kernels are
the forward ones with input and output channels exchanged and the taps read backwards: only the
strides given here differ.
"""

from .half import TAPS
from .memory import copy_in, gather_vectors, zero_vectors
from .parallel import FIRST, helper, kernel, next_item
from .transforms import call_weight
from .vector import LANES, TILE_COLUMNS, VECTOR_BYTES, load_int

(
    SOURCE,
    TARGET,
    DEPTH,
    COLUMNS,
    LANE_STEP,
    DEPTH_STEP,
    ROW_STEP,
    TAP_STEP,
    POINTS,
    WEIGHT_TRANSFORM,
    TAP_ROWS,
    TAP_COLUMNS,
    SLOTS,
) = range(FIRST, FIRST + 13)

CHUNK = 32
"""Input channels in an item."""


@helper
def padded_depth(depth: int) -> int:
    """Return the depth of a product's operands: a multiple of the microkernel's unrolling."""
    return (depth + 3) // 4 * 4


@kernel
def pad_vector(table: int, thread: int, threads: int) -> None:
    """Copy `COLUMNS` floats to where zeros follow: one item."""
    if next_item(table) == 0:
        copy_in(load_int(table, SOURCE), load_int(table, TARGET), load_int(table, COLUMNS))


@kernel
def pack_winograd(table: int, thread: int, threads: int) -> None:
    """U (points, K / 2L, C, 2L) = G g G^T: an item is some input channels of L output channels."""
    depth = load_int(table, DEPTH)
    columns = load_int(table, COLUMNS)
    row = TILE_COLUMNS * 4
    chunks = (depth + CHUNK - 1) // CHUNK
    tiles = (columns + TILE_COLUMNS - 1) // TILE_COLUMNS
    column_bytes = padded_depth(depth) * row
    item = next_item(table)
    while item >= 0:
        lane = item // chunks * LANES
        start = item % chunks * CHUNK
        count = min(CHUNK, depth - start)
        target = load_int(table, TARGET) + start * row
        target += lane // TILE_COLUMNS * column_bytes + lane % TILE_COLUMNS * 4
        lane_step = load_int(table, LANE_STEP)
        depth_step = load_int(table, DEPTH_STEP)
        call_weight(
            load_int(table, WEIGHT_TRANSFORM),
            load_int(table, SOURCE) + lane * lane_step + start * depth_step,
            load_int(table, ROW_STEP),
            load_int(table, TAP_STEP),
            lane_step,
            columns - lane,
            target,
            tiles * column_bytes,
            count,
            depth_step,
            row,
        )
        if start + count == depth:
            for point in range(load_int(table, POINTS)):
                for extra in range(depth, padded_depth(depth)):
                    place = target + point * tiles * column_bytes + (extra - start) * row
                    zero_vectors(place, 1)
        item = next_item(table)


@kernel
def pack_half(table: int, thread: int, threads: int) -> None:
    """H (K / L, n, C, 3, L) = G g: an item is some input channels of L output channels."""
    depth = load_int(table, DEPTH)
    columns = load_int(table, COLUMNS)
    step = TAPS * VECTOR_BYTES
    chunks = (depth + CHUNK - 1) // CHUNK
    item = next_item(table)
    while item >= 0:
        vector = item // chunks
        start = item % chunks * CHUNK
        lane_step = load_int(table, LANE_STEP)
        depth_step = load_int(table, DEPTH_STEP)
        call_weight(
            load_int(table, WEIGHT_TRANSFORM),
            load_int(table, SOURCE) + vector * LANES * lane_step + start * depth_step,
            load_int(table, ROW_STEP),
            load_int(table, TAP_STEP),
            lane_step,
            columns - vector * LANES,
            load_int(table, TARGET) + (vector * load_int(table, POINTS) * depth + start) * step,
            depth * step,
            min(CHUNK, depth - start),
            depth_step,
            step,
        )
        item = next_item(table)


@kernel
def pack_direct(table: int, thread: int, threads: int) -> None:
    """B (K / 2L, R * S * C, 2L): an item is some input channels of L output channels."""
    channels = load_int(table, DEPTH)
    columns = load_int(table, COLUMNS)
    tap_rows = load_int(table, TAP_ROWS)
    tap_columns = load_int(table, TAP_COLUMNS)
    row = TILE_COLUMNS * 4
    chunks = (channels + CHUNK - 1) // CHUNK
    depth = tap_rows * tap_columns * channels
    item = next_item(table)
    while item >= 0:
        lane = item // chunks * LANES
        start = item % chunks * CHUNK
        count = min(CHUNK, channels - start)
        target = load_int(table, TARGET) + lane % TILE_COLUMNS * 4
        target += lane // TILE_COLUMNS * padded_depth(depth) * row
        lane_step = load_int(table, LANE_STEP)
        depth_step = load_int(table, DEPTH_STEP)
        source = load_int(table, SOURCE) + lane * lane_step + start * depth_step
        for r in range(tap_rows):
            for s in range(tap_columns):
                place = (r * tap_columns + s) * channels + start
                gather_vectors(
                    source + r * load_int(table, ROW_STEP) + s * load_int(table, TAP_STEP),
                    lane_step,
                    columns - lane,
                    target + place * row,
                    count,
                    depth_step,
                    row,
                )
        if item % chunks == 0:
            for extra in range(depth, padded_depth(depth)):
                zero_vectors(target + extra * row, 1)
        item = next_item(table)
