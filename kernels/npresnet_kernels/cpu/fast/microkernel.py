"""Matrix products of a register tile: C += A B with C held in registers over the whole depth.

A tile is `rows` x (2 vectors). A step of the depth loads two vectors of B, and for each row
broadcasts one value of A into two fused multiply-adds. All row counts from 1 to the largest that
doesn't spill are generated from one function, so a block of any height splits into tiles of even
heights (see `tile_start`). Every element of C is one chain of fused multiply-adds in depth order:
the result depends neither on the tile's height nor on where in a block the row lies.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .parallel import helper, kernel
from .vector import (
    I1,
    I64,
    LANES,
    TILE_COLUMNS,
    TILE_ROWS,
    VECTOR_BYTES,
    Emitter,
    indirect_call,
    ir_kernel,
    load_int,
)

STEP = 4
"""Depth steps in an unrolled turn; depths are padded to a multiple of it."""

CACHE_LINE = 64

DEPTH_CHUNK = 128
"""Depth (about) after which a block's next columns are visited: B's 16 KB stay in L1 between tiles.

Chunks also sum apart from each other, which lowers the rounding error.

A multiple of the largest vector's lanes. Fixed, so that sums keep their order on every machine.
"""


def _tile(
    e: Emitter,
    rows: int,
    blocked: bool,
    pointers: tuple[ir.Value, ir.Value, ir.Value],
    strides: tuple[ir.Value, ir.Value, ir.Value],
    depth: ir.Value,
    ahead: ir.Value,
    accumulate: ir.Value,
) -> None:
    """Emit one tile: `depth` steps (a multiple of `STEP`) on `rows` rows.

    With `blocked`, A is (depth / LANES, rows, LANES), its first stride in bytes `strides[0]`, and
    B is (depth, 2 * LANES), dense. Otherwise A is (depth, rows) and B (depth, 2 * LANES) with the
    byte strides given. C is (rows, 2 * LANES).

    Large weights stream from memory too late by themselves. With `blocked`, memory from B + `ahead`
    on is fetched into L2 meanwhile: an address for each two cache lines of B, `strides[1]` bytes
    apart, and where that is more than a line also the line behind each. (What is there already
    must not be asked for again: that takes the place of lines that are still to come.)
    """
    a, b, c = pointers
    a_stride, b_stride, c_stride = strides
    builder = e.builder
    c_rows = [e.shift(c, builder.mul(c_stride, I64(row))) for row in range(rows)]
    zero = e.constant(0.0)
    places = [(row, half) for row in range(rows) for half in range(2)]

    totals = [zero] * len(places)

    def fetch(place: ir.Value) -> ir.Value:
        """Emit the fetches of `STEP` depth steps; return where the next ones begin."""
        places = [place]
        for _ in range(STEP * VECTOR_BYTES // CACHE_LINE):
            e.prefetch(places[-1], locality=2)
            places.append(e.shift(places[-1], b_stride))
        with builder.if_then(builder.icmp_signed(">", b_stride, I64(CACHE_LINE))):
            for place in places[:-1]:
                e.prefetch(place, CACHE_LINE, locality=2)
        return places[-1]

    def steps(a: ir.Value, b: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        """Emit `STEP` depth steps from where `a` and `b` point."""
        totals = list(totals)
        for step in range(STEP):
            if blocked:
                left, right = e.shift(a, 4 * step), e.shift(b, 2 * VECTOR_BYTES * step)
                row_bytes = VECTOR_BYTES
            else:
                left = e.shift(a, builder.mul(a_stride, I64(step)))
                right = e.shift(b, builder.mul(b_stride, I64(step)))
                row_bytes = 4
            halves = [e.load(right, half * VECTOR_BYTES) for half in range(2)]
            for row in range(rows):
                value = e.broadcast(left, row * row_bytes)
                for half in range(2):
                    place = 2 * row + half
                    totals[place] = e.fma(value, halves[half], totals[place])
        return totals

    turns = builder.sdiv(depth, I64(STEP))
    if blocked:
        # outer turns walk A's blocks of LANES depth steps, inner ones the steps of a block
        inner = LANES // STEP
        blocks = builder.sdiv(builder.add(turns, I64(inner - 1)), I64(inner))
        outer = e.loop(blocks, [a, b, e.shift(b, ahead), turns, *totals])
        a_block, b_block, place, left_over, *totals = outer.values
        is_last = builder.icmp_signed("<", left_over, I64(inner))
        count = builder.select(is_last, left_over, I64(inner))
        turn = e.loop(count, [a_block, b_block, place, *totals])
        a_now, b_now, place, *totals = turn.values
        place = fetch(place)
        totals = steps(a_now, b_now, totals)
        after = [e.shift(a_now, 4 * STEP), e.shift(b_now, 2 * VECTOR_BYTES * STEP), place, *totals]
        _, b_after, place, *totals = turn.close(after)
        left_over = builder.sub(left_over, I64(inner))
        after = [e.shift(a_block, a_stride), b_after, place, left_over, *totals]
        _, _, _, _, *totals = outer.close(after)
    else:
        turn = e.loop(turns, [a, b, *totals])
        a_now, b_now, *totals = turn.values
        totals = steps(a_now, b_now, totals)
        a_next = e.shift(a_now, builder.mul(a_stride, I64(STEP)))
        b_next = e.shift(b_now, builder.mul(b_stride, I64(STEP)))
        _, _, *totals = turn.close([a_next, b_next, *totals])

    # adding what was there last, not first, sums the chunks of a long depth by themselves: the
    # rounding error of a sum of 512 halves
    with builder.if_else(accumulate) as (again, first):
        with again:
            for (row, half), value in zip(places, totals, strict=True):
                before = e.load(c_rows[row], half * VECTOR_BYTES)
                e.store(e.add(before, value), c_rows[row], half * VECTOR_BYTES)
        with first:
            for (row, half), value in zip(places, totals, strict=True):
                e.store(value, c_rows[row], half * VECTOR_BYTES)


def by_height(name: str, emit: Callable[..., None], most: int = TILE_ROWS) -> Callable[..., None]:
    """Return the body of a function (rows, ...) that switches over row counts up to `most`.

    `emit(emitter, rows, ...)` emits the tile of one height.
    """

    def body(e: Emitter, rows: ir.Value, *values: ir.Value) -> None:
        builder = e.builder
        done = builder.append_basic_block("done")
        choice = builder.switch(rows, done)
        for height in range(1, most + 1):
            block = builder.append_basic_block(f"rows{height}")
            choice.add_case(I64(height), block)
            builder.position_at_end(block)
            # a function a height: one big function with all of them costs LLVM far more time
            builder.call(_define(builder.module, name, height, emit, values), values)
            builder.branch(done)
        builder.position_at_end(done)

    return body


def _define(
    module: ir.Module,
    name: str,
    rows: int,
    emit: Callable[..., None],
    values: Sequence[ir.Value],
) -> ir.Function:
    """Define the function of one tile height in `module`."""
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    function = ir.Function(module, kind, f"npresnet_tile{rows}{name}_v{LANES}")
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(Emitter(builder), rows, *function.args)
    builder.ret_void()
    return function


def _product(blocked: bool) -> Callable[..., None]:
    """Return what emits a tile of `gemm_blocked` or of `gemm_strided`."""

    def emit(
        e: Emitter,
        rows: int,
        a: ir.Value,
        a_stride: ir.Value,
        b: ir.Value,
        b_stride: ir.Value,
        c: ir.Value,
        c_stride: ir.Value,
        depth: ir.Value,
        ahead: ir.Value,
        accumulate: ir.Value,
    ) -> None:
        strides = (a_stride, b_stride, c_stride)
        flag = e.builder.trunc(accumulate, I1)
        _tile(e, rows, blocked, (a, b, c), strides, depth, ahead, flag)

    return emit


_blocked: Callable[..., Any] = ir_kernel(
    "gemm_blocked", "ipipipiiii", by_height("_blocked", _product(True))
)
_strided: Callable[..., Any] = ir_kernel(
    "gemm_strided", "ipipipiiii", by_height("", _product(False))
)


@kernel
def gemm_blocked(
    rows: int,
    a: int,
    a_stride: int,
    b: int,
    pace: int,
    c: int,
    c_stride: int,
    depth: int,
    ahead: int,
    accumulate: int,
) -> None:
    """C (rows, 2L) = [C +] A B with A (depth/L, rows, L), B (depth, 2L). Strides in bytes.

    Memory from B + `ahead` on is fetched into L2, `pace` bytes (at most two cache lines) for each
    two cache lines of B.
    """
    _blocked(rows, a, a_stride, b, pace, c, c_stride, depth, ahead, accumulate)


@kernel
def gemm_strided(
    rows: int,
    a: int,
    a_stride: int,
    b: int,
    b_stride: int,
    c: int,
    c_stride: int,
    depth: int,
    ahead: int,
    accumulate: int,
) -> None:
    """C (rows, 2L) = [C +] A^T B with A (depth, rows) and B (depth, 2L). Strides in bytes."""
    _strided(rows, a, a_stride, b, b_stride, c, c_stride, depth, ahead, accumulate)


call_gemm: Callable[..., Any] = indirect_call("call_gemm", 10)
"""Call one of the two products through its address."""


@helper
def tile_start(rows: int, tile: int) -> int:
    """Return where tile number `tile` of a block of `rows` rows starts, heights being even."""
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    return tile * rows // tiles


@helper
def chunk_length(depth: int) -> int:
    """Return the depth of a chunk: equal ones near `DEPTH_CHUNK`, in whole vectors."""
    chunks = max((depth + DEPTH_CHUNK // 2) // DEPTH_CHUNK, 1)
    return max((depth + chunks * LANES - 1) // (chunks * LANES) * LANES, LANES)


WANTED_RANGES = 3
WANTED_BYTES = CACHE_LINE
"""Of a list of memory that will be wanted soon: an address and a number of bytes for each range."""


@helper
def wanted_size(wanted: int) -> int:
    """Return the bytes of all ranges."""
    size = 0
    for number in range(WANTED_RANGES):
        size += load_int(wanted, 2 * number + 1)
    return size


@helper
def wanted_place(wanted: int, offset: int) -> int:
    """Return the address `offset` bytes into the ranges, taken one after the other."""
    for number in range(WANTED_RANGES):
        size = load_int(wanted, 2 * number + 1)
        if offset < size:
            return load_int(wanted, 2 * number) + offset
        offset -= size
    return load_int(wanted, 0)


@helper
def multiply_block(
    gemm: int,
    a: int,
    a_stride: int,
    b: int,
    b_stride: int,
    c: int,
    c_row_stride: int,
    c_column_stride: int,
    rows: int,
    depth: int,
    columns: int,
    following: int,
    wanted: int,
    accumulate: int,
) -> None:
    """C (rows, columns, 2L) = [C +] A B for a block of rows, A in the blocked layout.

    `columns` counts tiles of 2L columns; B is (columns, b_stride bytes), each a dense (depth, 2L).
    `gemm` is the address of `gemm_blocked`. The depth is cut into chunks of `DEPTH_CHUNK`, so that
    a chunk of a column of B stays in L1 while the rows pass by.

    Meanwhile memory is fetched, all tiles sharing the work so that it is never idle: the list at
    `wanted`, or if that is 0 the next part of B, and at last `following`, the next block's B.
    """
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    chunk = chunk_length(depth)
    share = 0
    if wanted:
        chunks = (max(depth, 1) + chunk - 1) // chunk
        share = wanted_size(wanted) // max(tiles * columns * chunks, 1)
    fetched = 0
    # a depth of 0 still clears C
    for start in range(0, max(depth, 1), chunk):
        count = min(chunk, depth - start)
        again = 1 if start > 0 else accumulate
        a_chunk = a + start // LANES * a_stride
        for column in range(columns):
            b_chunk = b + column * b_stride + start * 4 * TILE_COLUMNS
            if column + 1 < columns:
                ahead = b_stride
            elif start + chunk < depth:
                ahead = b + (start + chunk) * 4 * TILE_COLUMNS - b_chunk
            else:
                ahead = following - b_chunk
            for tile in range(tiles):
                row = tile_start(rows, tile)
                place = ahead + count * 4 * TILE_COLUMNS * tile // tiles
                pace = (2 * CACHE_LINE + tiles - 1) // tiles
                if wanted:
                    place = wanted_place(wanted, fetched) - b_chunk
                    pace = share * CACHE_LINE // (count * VECTOR_BYTES) + 1
                    pace = min(pace, 2 * CACHE_LINE)
                    fetched += share
                call_gemm(
                    gemm,
                    tile_start(rows, tile + 1) - row,
                    a_chunk + row * VECTOR_BYTES,
                    a_stride,
                    b_chunk,
                    pace,
                    c + row * c_row_stride + column * c_column_stride,
                    c_row_stride,
                    count,
                    place,
                    again,
                )
