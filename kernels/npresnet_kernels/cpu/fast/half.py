"""Products by weights that are transformed in one direction only, the other one in registers.

Winograd's transformed weights are larger than the weights, (n / 3)^2 times, and for an image alone
reading them takes longer than multiplying by them. G g, transformed by columns, is n / 3 times as
large. A step of the depth loads three numbers of a row for a vector of output channels, makes the
row's points of them as G g G^T has them, and multiplies each point by its own rows of V. An even
part of a row at a time, so that points x tiles accumulators fit the registers: n points where they
are 4, of 6 first 0 and the first mirrored pair, then the other pair and infinity.

H is (K / L, n, C, 3, L).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .matrices import Matrix, apply_matrix, winograd_matrices
from .microkernel import CACHE_LINE, STEP, by_height, chunk_length
from .parallel import Kernel, helper, kernel
from .vector import (
    I1,
    I64,
    LANES,
    VECTOR_BYTES,
    Emitter,
    indirect_call,
    ir_kernel,
    vector_target,
)

TAPS = 3

SPARE = 8
"""Registers that hold a step's weights and what is made of them."""


def _most_tiles(points: int) -> int:
    """Return the tiles whose accumulators fit the registers."""
    return max((vector_target().registers - SPARE) // points, 1)


MOST_TILES_3, MOST_TILES_4 = _most_tiles(3), _most_tiles(4)

FITS = vector_target().registers >= 32
"""Whether there are so many registers that a step's weights serve enough tiles."""


def _points(matrix: Matrix) -> Callable[..., None]:
    """Return what emits the products of some points, `matrix` being their rows of G."""

    def emit(
        e: Emitter,
        tiles: int,
        a: ir.Value,
        a_stride: ir.Value,
        point_stride: ir.Value,
        b: ir.Value,
        lines: ir.Value,
        c: ir.Value,
        c_stride: ir.Value,
        c_point_stride: ir.Value,
        depth: ir.Value,
        ahead: ir.Value,
        accumulate: ir.Value,
    ) -> None:
        builder = e.builder
        places = [(point, tile) for point in range(len(matrix)) for tile in range(tiles)]
        step_bytes = TAPS * VECTOR_BYTES

        def steps(a: ir.Value, b: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
            """Emit `STEP` depth steps from where `a` and `b` point."""
            totals = list(totals)
            rows = [e.shift(a, builder.mul(point_stride, I64(p))) for p in range(len(matrix))]
            for step in range(STEP):
                half = [e.load(b, step * step_bytes + tap * VECTOR_BYTES) for tap in range(TAPS)]
                weights = apply_matrix(e, matrix, half)
                for number, (point, tile) in enumerate(places):
                    value = e.broadcast(rows[point], tile * VECTOR_BYTES + 4 * step)
                    totals[number] = e.fma(value, weights[point], totals[number])
            return totals

        # outer turns walk A's blocks of LANES depth steps, inner ones the steps of a block
        turns = builder.sdiv(depth, I64(STEP))
        inner = LANES // STEP
        blocks = builder.sdiv(turns, I64(inner))
        zero = e.constant(0.0)
        outer = e.loop(blocks, [a, b, e.shift(b, ahead), *[zero] * len(places)])
        a_block, b_block, place, *totals = outer.values
        turn = e.loop(I64(inner), [a_block, b_block, place, *totals])
        a_now, b_now, place, *totals = turn.values
        fetch = e.loop(lines, [place])
        e.prefetch(fetch.values[0], locality=2)
        (place,) = fetch.close([e.shift(fetch.values[0], CACHE_LINE)])
        totals = steps(a_now, b_now, totals)
        after = [e.shift(a_now, 4 * STEP), e.shift(b_now, step_bytes * STEP), place, *totals]
        _, b_after, place, *totals = turn.close(after)
        _, _, _, *totals = outer.close([e.shift(a_block, a_stride), b_after, place, *totals])

        again = builder.trunc(accumulate, I1)
        targets = [
            e.shift(
                e.shift(c, builder.mul(c_stride, I64(tile))),
                builder.mul(c_point_stride, I64(point)),
            )
            for point, tile in places
        ]
        # chunks of a long depth sum by themselves, as in `microkernel`
        with builder.if_else(again) as (later, first):
            with later:
                for target, value in zip(targets, totals, strict=True):
                    e.store(e.add(e.load(target), value), target)
            with first:
                for target, value in zip(targets, totals, strict=True):
                    e.store(value, target)

    return emit


def _body(name: str, matrix: Matrix) -> Any:
    """Make the function of some points, for all numbers of tiles."""
    most = _most_tiles(len(matrix))
    return ir_kernel(name, "ipiipipiiiii", by_height(f"_{name}", _points(matrix), most))


_low_4_3 = _body("points_low_4_3", winograd_matrices(4, 3)[1][:3])
_high_4_3 = _body("points_high_4_3", winograd_matrices(4, 3)[1][3:])
_all_2_3 = _body("points_2_3", winograd_matrices(2, 3)[1])


@kernel
def points_low_4_3(
    tiles: int,
    a: int,
    a_stride: int,
    point_stride: int,
    b: int,
    lines: int,
    c: int,
    c_stride: int,
    c_point_stride: int,
    depth: int,
    ahead: int,
    accumulate: int,
) -> None:
    """C (points, tiles, L) = [C +] products of a row's first three points of F(4x4, 3x3).

    A is (points, depth / L, tiles, L), B (depth, 3, L); strides in bytes. Meanwhile `lines` cache
    lines from B + `ahead` on are fetched into L2 for each `STEP` of the depth.
    """
    _low_4_3(
        tiles,
        a,
        a_stride,
        point_stride,
        b,
        lines,
        c,
        c_stride,
        c_point_stride,
        depth,
        ahead,
        accumulate,
    )


@kernel
def points_high_4_3(
    tiles: int,
    a: int,
    a_stride: int,
    point_stride: int,
    b: int,
    lines: int,
    c: int,
    c_stride: int,
    c_point_stride: int,
    depth: int,
    ahead: int,
    accumulate: int,
) -> None:
    """The same for the last three points."""
    _high_4_3(
        tiles,
        a,
        a_stride,
        point_stride,
        b,
        lines,
        c,
        c_stride,
        c_point_stride,
        depth,
        ahead,
        accumulate,
    )


@kernel
def points_2_3(
    tiles: int,
    a: int,
    a_stride: int,
    point_stride: int,
    b: int,
    lines: int,
    c: int,
    c_stride: int,
    c_point_stride: int,
    depth: int,
    ahead: int,
    accumulate: int,
) -> None:
    """The same for all four points of F(2x2, 3x3)."""
    _all_2_3(
        tiles,
        a,
        a_stride,
        point_stride,
        b,
        lines,
        c,
        c_stride,
        c_point_stride,
        depth,
        ahead,
        accumulate,
    )


HALF_PRODUCTS_4: tuple[Kernel, ...] = (points_low_4_3, points_high_4_3)
HALF_PRODUCTS_2: tuple[Kernel, ...] = (points_2_3,)

call_points: Callable[..., Any] = indirect_call("call_points", 12)


@helper
def multiply_half(
    low: int,
    high: int,
    v: int,
    v_stride: int,
    point_stride: int,
    h: int,
    c: int,
    c_stride: int,
    c_point_stride: int,
    tiles: int,
    depth: int,
    side: int,
) -> None:
    """Make M of `tiles` tiles for one vector of output channels, whose H is at `h`.

    `low` and `high` are the addresses of a row's products; `high` is 0 where one makes all. `side`
    is n. Memory behind H is fetched meanwhile: it is the next vector's.
    """
    parts, most = 1, MOST_TILES_4
    if high:
        parts, most = 2, MOST_TILES_3
    groups = (tiles + most - 1) // most
    calls = parts * groups
    chunk = chunk_length(depth)
    # what a chunk reads is fetched in equal shares
    lines = (STEP * TAPS * VECTOR_BYTES // CACHE_LINE + calls - 1) // calls
    for row in range(side):
        for start in range(0, depth, chunk):
            count = min(chunk, depth - start)
            b = h + (row * depth + start) * TAPS * VECTOR_BYTES
            ahead = count * TAPS * VECTOR_BYTES
            for part in range(parts):
                point = row * side + part * (side // parts)
                products = low
                if part:
                    products = high
                for group in range(groups):
                    first = group * tiles // groups
                    call_points(
                        products,
                        (group + 1) * tiles // groups - first,
                        v + point * point_stride + start // LANES * v_stride + first * VECTOR_BYTES,
                        v_stride,
                        point_stride,
                        b,
                        lines,
                        c + point * c_point_stride + first * c_stride,
                        c_stride,
                        c_point_stride,
                        count,
                        ahead,
                        start > 0,
                    )
                    ahead += lines * CACHE_LINE * (count // STEP)
