"""The end of a direct convolution: y = max(M + bias + residual, floor) for a block of rows.

Training's batch norm wants the sums of y and y^2. They are made here, of values that are still in
registers; in float64, as squares cancel. Rows of M, residual and y lie at steps of their own.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .parallel import kernel
from .rows import Lane, emit_groups
from .sums import Moving, emit_sums
from .vector import VECTOR_BYTES, Emitter, indirect_call, ir_kernel


def _finish(summing: bool) -> Callable[..., None]:
    """Return what emits the loops over a block."""

    def emit(
        e: Emitter,
        rows: ir.Value,
        channels: ir.Value,
        m: ir.Value,
        m_step: ir.Value,
        bias: ir.Value,
        floor: ir.Value,
        residual: ir.Value,
        residual_step: ir.Value,
        y: ir.Value,
        y_step: ir.Value,
        sums: ir.Value,
        second: ir.Value,
    ) -> None:
        lowest = e.broadcast(floor)
        starts, steps = [m, residual, y], [m_step, residual_step, y_step]

        def values(
            lane: Lane, pointers: list[ir.Value], constants: list[ir.Value]
        ) -> tuple[ir.Value, ir.Value]:
            """Write a vector of y, and return it twice, for its sum and its square's."""
            total, other, target = pointers
            value = e.add(e.add(lane.load(total), constants[0]), lane.load(other))
            value = e.maximum(value, lowest)
            lane.store(value, target)
            return value, value

        def columns(lanes: list[Lane], pointers: list[ir.Value]) -> None:
            for i, lane in enumerate(lanes):
                *here, offset = [e.shift(p, VECTOR_BYTES * i) for p in pointers]
                values(lane, here, [lane.load(offset)])

        if summing:
            moving = [Moving(*pair, fetched=False) for pair in zip(starts, steps, strict=True)]
            emit_sums(e, rows, channels, sums, second, moving, [bias], values, wide=True)
            return
        turn = e.loop(rows, starts)
        emit_groups(e, channels, [*turn.values, bias], columns, [VECTOR_BYTES] * 4)
        turn.close([e.shift(p, step) for p, step in zip(turn.values, steps, strict=True)])

    return emit


_plain: Callable[..., Any] = ir_kernel("finish", "iipipppipipi", _finish(False))
_summed: Callable[..., Any] = ir_kernel("finish_summed", "iipipppipipi", _finish(True))


@kernel
def finish(
    rows: int,
    channels: int,
    m: int,
    m_step: int,
    bias: int,
    floor: int,
    residual: int,
    residual_step: int,
    y: int,
    y_step: int,
    sums: int,
    second: int,
) -> None:
    """Write y (rows, channels). Steps in bytes; the last two aren't used."""
    _plain(rows, channels, m, m_step, bias, floor, residual, residual_step, y, y_step, sums, second)


@kernel
def finish_summed(
    rows: int,
    channels: int,
    m: int,
    m_step: int,
    bias: int,
    floor: int,
    residual: int,
    residual_step: int,
    y: int,
    y_step: int,
    sums: int,
    second: int,
) -> None:
    """Write y, its sums over the rows to `sums`, and its squares' `second` bytes behind."""
    _summed(
        rows, channels, m, m_step, bias, floor, residual, residual_step, y, y_step, sums, second
    )


call_finish: Callable[..., Any] = indirect_call("call_finish", 12)
"""Call one of the two through its address."""
