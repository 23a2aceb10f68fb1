"""Sums over rows of channels: a value's and a product's, a column of vectors at a time.

The sums of batch norm, forward and backward: rows pass by while those of some vectors side by side
stay in registers. What a value is, its giver says; it may store it on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .parallel import kernel
from .rows import Lane, emit_groups, emit_vectors
from .vector import DOUBLE, I64, LANES, VECTOR_BYTES, Emitter, indirect_call, ir_kernel

RUN = 32
"""Rows that are summed in registers, before the sums are added to those in memory."""

AHEAD = 12
"""Rows to fetch ahead: hardware prefetchers by themselves reach two thirds of the bandwidth."""

WIDE = ir.VectorType(DOUBLE, LANES)

Values = Callable[[Lane, list[ir.Value], list[ir.Value]], tuple[ir.Value, ir.Value]]
"""`values(lane, pointers, constants)` gives a, and b to sum up a and a * b, at a place of a row."""


@dataclass(frozen=True)
class Moving:
    """An array (rows, channels) that is read or written row by row.

    Attributes
    ----------
    start : llvmlite value
        Its address.
    step : llvmlite value
        Bytes from a row to the next.
    fetched : bool
        Whether rows ahead are asked for.
    """

    start: ir.Value
    step: ir.Value
    fetched: bool = True


def emit_sums(
    e: Emitter,
    rows: ir.Value,
    channels: ir.Value,
    out: ir.Value,
    second: ir.Value,
    moving: Sequence[Moving],
    constants: Sequence[ir.Value],
    values: Values,
    wide: bool = False,
) -> None:
    """Emit the loops that write the sum of a, (channels,) doubles, to `out`, and that of a * b.

    The second lies `second` bytes behind the first. `constants` are addresses of (channels,)
    floats. With `wide` all of the sum is in float64, else no more than `RUN` rows in float32.
    """
    builder = e.builder
    steps = [array.step for array in moving]
    ahead = {i: builder.mul(a.step, I64(AHEAD)) for i, a in enumerate(moving) if a.fetched}
    zero = ir.Constant(WIDE, [0.0] * LANES) if wide else e.constant(0.0)
    sizes = [8 * LANES] + [VECTOR_BYTES] * (len(moving) + len(constants))

    def clear(lane: Lane, pointers: list[ir.Value]) -> None:
        for offset in (I64(0), second):
            lane.store_doubles(ir.Constant(WIDE, [0.0] * LANES), e.shift(pointers[0], offset))

    emit_vectors(e, channels, [out], clear, sizes[:1])
    runs = builder.sdiv(builder.add(rows, I64(RUN - 1)), I64(RUN))
    run = e.loop(runs, [rows, *[array.start for array in moving]])
    left, *first = run.values
    count = builder.select(builder.icmp_signed("<", left, I64(RUN)), left, I64(RUN))

    def columns(lanes: list[Lane], pointers: list[ir.Value]) -> None:
        """Sum some vectors side by side over the rows of a run."""
        sums, *here = pointers
        known = [
            [lane.load(e.shift(p, VECTOR_BYTES * i)) for p in here[len(moving) :]]
            for i, lane in enumerate(lanes)
        ]
        turn = e.loop(count, [*here[: len(moving)], *[zero] * (2 * len(lanes))])
        now, totals = turn.values[: len(moving)], turn.values[len(moving) :]
        added = []
        for i, lane in enumerate(lanes):
            at = [e.shift(p, VECTOR_BYTES * i) for p in now]
            for number, offset in ahead.items():
                e.prefetch(at[number], offset)
            value, other = values(lane, at, known[i])
            if wide:
                value, other = builder.fpext(value, WIDE), builder.fpext(other, WIDE)
            added.append(e.add(totals[2 * i], value))
            added.append(e.fma(value, other, totals[2 * i + 1]))
        moved = [e.shift(p, step) for p, step in zip(now, steps, strict=True)]
        totals = turn.close([*moved, *added])[len(moving) :]
        for i, total in enumerate(totals):
            lane, place = lanes[i // 2], e.shift(sums, 8 * LANES * (i // 2))
            place = e.shift(place, second) if i % 2 else place
            total = total if wide else builder.fpext(total, WIDE)
            lane.store_doubles(builder.fadd(lane.load_doubles(place), total), place)

    emit_groups(e, channels, [out, *first, *constants], columns, sizes)
    following = [
        e.shift(p, builder.mul(step, I64(RUN))) for p, step in zip(first, steps, strict=True)
    ]
    run.close([builder.sub(left, I64(RUN)), *following])


def _squares(e: Emitter, rows: ir.Value, channels: ir.Value, out: ir.Value, x: ir.Value) -> None:
    step, second = (e.builder.mul(channels, I64(size)) for size in (4, 8))

    def values(
        lane: Lane, pointers: list[ir.Value], constants: list[ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        value = lane.load(pointers[0])
        return value, value

    emit_sums(e, rows, channels, out, second, [Moving(x, step)], [], values, wide=True)


_sum_rows: Callable[..., Any] = ir_kernel("sum_rows", "iipp", _squares)


@kernel
def sum_rows(rows: int, channels: int, out: int, x: int) -> None:
    """Write the sums of x (rows, channels) and of x^2 to out (2, channels) of float64."""
    _sum_rows(rows, channels, out, x)


call_sums: Callable[..., Any] = indirect_call("call_sums", 4)
"""Call `sum_rows` through its address."""
