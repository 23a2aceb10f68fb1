"""What the weight gradients share: operands in scratch, register tiles of sums, the way to memory.

Each is a product over pixels or tiles, dW = A^T B, with A (depth, K) and B (depth, C) in scratch
and the sums as (c tiles, k tiles, rows, 2L) until they are scattered into (K, C, R, S). Where a
layer has too few channels to make work for all threads, the depth is cut into shards; how many
depends on the shape alone, and their gradients are added in order: the bits never depend on the
threads.
"""

import numpy as np
from llvmlite import ir

from .memory import zero_vectors
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


def _zero(e: Emitter, target: ir.Value, count: ir.Value) -> None:
    emit_vectors(e, count, [target], lambda lane, here: lane.store(e.constant(0.0), here[0]))


zero_floats = ir_kernel("zero_floats", "pi", _zero)
"""zero_floats(target, floats): exactly that many."""


@helper
def write_tap(
    sums: int, rows: int, columns: int, target: int, filter_bytes: int, channels: int
) -> None:
    """Write one tap of K x C filters; `target` is its place in the first filter."""
    k_tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    for channel in range(0, columns, LANES):
        cell = sums + channel // TILE_COLUMNS * k_tiles * SUMS_BYTES
        cell += channel % TILE_COLUMNS * 4
        for k_tile in range(k_tiles):
            start = tile_start(rows, k_tile)
            for row in range(tile_start(rows, k_tile + 1) - start):
                scatter_lanes(
                    cell + row * TILE_COLUMNS * 4,
                    target + ((start + row) * channels + channel) * filter_bytes,
                    filter_bytes,
                    columns - channel,
                )
            cell += SUMS_BYTES


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
