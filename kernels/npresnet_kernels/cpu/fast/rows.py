"""Element-wise passes over rows of channels: the loop with its masked tail, written once.

An activation (N, H, W, C) is a matrix of N * H * W rows. A body that is given for one vector is
emitted for the whole vectors of a row and, masked, for the channels left over.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .vector import BYTE, DOUBLE, I64, LANES, VECTOR_BYTES, Emitter, ir_kernel

AHEAD = 2048
"""Bytes to fetch ahead of a pass: a third faster than hardware prefetchers by themselves."""


WIDTH = 4
"""Vectors of a row at a time, where it pays: whole cache lines side by side."""


class Lane:
    """Loads and stores for one vector of a row, masked at the row's end."""

    def __init__(self, e: Emitter, mask: ir.Value | None) -> None:
        self.e = e
        self.mask = mask

    def load(self, pointer: ir.Value) -> ir.Value:
        """Load floats; 0 behind the row's end."""
        return self.e.masked_load(pointer, self.mask) if self.mask else self.e.load(pointer)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store floats."""
        if self.mask:
            self.e.masked_store(value, pointer, self.mask)
        else:
            self.e.store(value, pointer)

    def load_bytes(self, pointer: ir.Value) -> ir.Value:
        """Load a byte a lane."""
        kind = ir.VectorType(BYTE, LANES)
        if not self.mask:
            return self.e.builder.load(pointer, align=1, typ=kind)
        return self.e.masked_load(pointer, self.mask, kind)

    def store_bytes(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store a byte a lane."""
        if self.mask:
            self.e.masked_store(value, pointer, self.mask)
        else:
            self.e.builder.store(value, pointer, align=1)

    def load_doubles(self, pointer: ir.Value) -> ir.Value:
        """Load a double a lane."""
        kind = ir.VectorType(DOUBLE, LANES)
        if not self.mask:
            return self.e.builder.load(pointer, align=8, typ=kind)
        return self.e.masked_load(pointer, self.mask, kind)

    def store_doubles(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store a double a lane."""
        if self.mask:
            self.e.masked_store(value, pointer, self.mask)
        else:
            self.e.builder.store(value, pointer, align=8)


Body = Callable[[Lane, list[ir.Value]], None]


def emit_vectors(
    e: Emitter,
    count: ir.Value,
    pointers: Sequence[ir.Value],
    body: Body,
    steps: Sequence[int] | None = None,
) -> None:
    """Emit `body(lane, pointers)` for each vector of `count` floats.

    Each pointer moves on by its entry of `steps` bytes (a vector's if not given) from one vector
    to the next.
    """
    builder = e.builder
    steps = steps or [VECTOR_BYTES] * len(pointers)
    turn = e.loop(builder.sdiv(count, I64(LANES)), list(pointers))
    here = turn.values
    body(Lane(e, None), here)
    here = turn.close([e.shift(p, step) for p, step in zip(here, steps, strict=True)])
    rest = builder.srem(count, I64(LANES))
    with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
        body(Lane(e, e.lanes_below(rest)), here)


def emit_groups(
    e: Emitter,
    count: ir.Value,
    pointers: Sequence[ir.Value],
    body: Callable[[list[Lane], list[ir.Value]], None],
    steps: Sequence[int],
) -> None:
    """Emit `body(lanes, pointers)` for each `WIDTH` vectors side by side, then one by one.

    As `emit_vectors`; `lanes` has an entry for each vector.
    """
    turn = e.loop(e.builder.sdiv(count, I64(WIDTH * LANES)), list(pointers))
    body([Lane(e, None)] * WIDTH, turn.values)
    moved = [e.shift(p, WIDTH * step) for p, step in zip(turn.values, steps, strict=True)]
    rest = e.builder.srem(count, I64(WIDTH * LANES))
    emit_vectors(e, rest, turn.close(moved), lambda lane, here: body([lane], here), steps)


def row_kernel(name: str, per_row: int, per_channel: int, body: Body, numbers: int = 0) -> Any:
    """Make `f(rows, channels, row arrays..., channel arrays..., numbers...)` from a vector's body.

    Parameters
    ----------
    name : str
    per_row : int
        How many arrays (rows, channels) come first among the body's pointers; it writes the last.
    per_channel : int
        How many arrays (channels,) of float32 follow.
    numbers : int
        How many addresses of one number come last.
    body : callable
        `body(lane, pointers)`.
    """

    def emit(e: Emitter, rows: ir.Value, channels: ir.Value, *arrays: ir.Value) -> None:
        row_bytes = e.builder.mul(channels, I64(4))
        steps = [VECTOR_BYTES] * (per_row + per_channel) + [0] * numbers
        turn = e.loop(rows, list(arrays[:per_row]))

        def fetched(lane: Lane, pointers: list[ir.Value]) -> None:
            for pointer in pointers[: per_row - 1]:
                e.prefetch(pointer, AHEAD)
            body(lane, pointers)

        emit_vectors(e, channels, [*turn.values, *arrays[per_row:]], fetched, steps)
        turn.close([e.shift(pointer, row_bytes) for pointer in turn.values])

    return ir_kernel(name, "ii" + "p" * (per_row + per_channel + numbers), emit)
