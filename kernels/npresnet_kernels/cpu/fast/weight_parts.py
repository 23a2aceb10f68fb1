"""What the weight gradients share: operands in scratch, register tiles of sums, the way to memory.

Each is a product over pixels or tiles, dW = A^T B, with A (depth, K) and B (depth, C) in scratch
and the sums as (c tiles, k tiles, rows, 2L) until they are scattered into (K, C, R, S). Where a
layer has too few channels to make work for all threads, the depth is cut into shards; how many
depends on the shape alone, and their gradients are added in order: the bits never depend on the
threads.
"""

import numpy as np
from llvmlite import ir

from .memory import copy_out, zero_vectors
from .microkernel import call_gemm, tile_start
from .parallel import FIRST, helper, kernel, next_item, run
from .problem import Floats, address, ceil_div
from .rows import Lane, emit_vectors
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES, Emitter, ir_kernel, load_int

SUMS_BYTES = TILE_ROWS * TILE_COLUMNS * 4
"""A register tile of sums in memory."""

REDUCED = 16 * 1024
"""Weights in an item of the sum over shards."""

WEIGHT, PARTIAL, SHARDS, COUNT = range(FIRST, FIRST + 4)


@helper
def row_bytes(channels: int) -> int:
    """Return the bytes of a row of A: an odd number of vectors, kind to the cache's sets."""
    return ((channels + LANES - 1) // LANES | 1) * VECTOR_BYTES


@helper
def vector_rows(channels: int) -> int:
    """Return the bytes of a row of B, of which whole column tiles are read."""
    vectors = (channels + TILE_COLUMNS - 1) // TILE_COLUMNS * 2
    return (vectors | 1) * VECTOR_BYTES


@helper
def sums_bytes(rows: int, columns: int) -> int:
    """Return the bytes of the sums of K x C channels."""
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    c_tiles = (columns + TILE_COLUMNS - 1) // TILE_COLUMNS
    return k_tiles * c_tiles * SUMS_BYTES


@helper
def multiply_rows(
    gemm: int,
    a: int,
    a_row: int,
    b: int,
    b_row: int,
    depth: int,
    rows: int,
    columns: int,
    sums: int,
    accumulate: int,
) -> None:
    """Sums (c tiles, k tiles, rows, 2L) = [sums +] A^T B for a depth padded to whole turns."""
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    target = sums
    for column in range(0, columns, TILE_COLUMNS):
        for k_tile in range(k_tiles):
            start = tile_start(rows, k_tile)
            call_gemm(
                gemm,
                tile_start(rows, k_tile + 1) - start,
                a + start * 4,
                a_row,
                b + column * 4,
                b_row,
                target,
                TILE_COLUMNS * 4,
                depth,
                0,
                accumulate,
            )
            target += SUMS_BYTES


@helper
def padded(depth: int) -> int:
    """Return a depth of whole turns of the microkernel."""
    return (depth + 3) // 4 * 4


@helper
def clear_tail(rows: int, row: int, depth: int) -> None:
    """Zero what pads the depth of an operand."""
    zero_vectors(rows + depth * row, (padded(depth) - depth) * (row // VECTOR_BYTES))


def _scatter(
    e: Emitter, source: ir.Value, target: ir.Value, step: ir.Value, lanes: ir.Value
) -> None:
    e.scatter(e.load(source), target, step, e.lanes_below(lanes))


scatter_lanes = ir_kernel("scatter_lanes", "ppii", _scatter)
"""scatter_lanes(source, target, step, lanes): a vector's first lanes to every `step` bytes."""


@helper
def write_filters(
    sums: int,
    between_taps: int,
    taps: int,
    used: int,
    used_count: int,
    rows: int,
    columns: int,
    target: int,
    channels: int,
    line: int,
) -> None:
    """Write K x C filters of `taps` taps, a row of them at a time.

    `used` is a list of the taps that have sums, `between_taps` bytes apart; the others are 0. A row
    is put together in `line` first: written in order, it finds its way to memory much faster.
    """
    filter_bytes = taps * 4
    zero_vectors(line, line_bytes(columns, taps) // VECTOR_BYTES)
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    for k_tile in range(k_tiles):
        start = tile_start(rows, k_tile)
        for row in range(tile_start(rows, k_tile + 1) - start):
            for channel in range(0, columns, LANES):
                cell = sums + (channel // TILE_COLUMNS * k_tiles + k_tile) * SUMS_BYTES
                cell += row * TILE_COLUMNS * 4 + channel % TILE_COLUMNS * 4
                for number in range(used_count):
                    scatter_lanes(
                        cell + number * between_taps,
                        line + channel * filter_bytes + load_int(used, number) * 4,
                        filter_bytes,
                        columns - channel,
                    )
            copy_out(line, target + (start + row) * channels * filter_bytes, columns * taps)


@helper
def line_bytes(columns: int, taps: int) -> int:
    """Return the room for a row of filters."""
    return (columns * taps + LANES - 1) // LANES * VECTOR_BYTES


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


_add_shards_of = ir_kernel("add_shards", "iiipp", _add_shards)


@kernel
def weight_reduce(table: int, thread: int, threads: int) -> None:
    """Add up the shards: an item is some of the weights."""
    weights = load_int(table, COUNT)
    item = next_item(table)
    while item >= 0:
        first = item * REDUCED
        _add_shards_of(
            min(REDUCED, weights - first),
            load_int(table, SHARDS),
            weights * 4,
            load_int(table, PARTIAL) + first * 4,
            load_int(table, WEIGHT) + first * 4,
        )
        item = next_item(table)


def add_shards(partial: int, shards: int, grad_weight: Floats, threads: int) -> None:
    """Write the sum of the gradients of all shards, which lie one after another at `partial`."""
    table = np.zeros(COUNT + 1, dtype=np.int64)
    table[WEIGHT], table[PARTIAL] = address(grad_weight), partial
    table[SHARDS], table[COUNT] = shards, grad_weight.size
    run(weight_reduce, table, ceil_div(grad_weight.size, REDUCED), threads)
