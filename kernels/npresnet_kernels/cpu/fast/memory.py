"""Moving channels between arrays whose channel count is any and scratch of whole vectors."""

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from .vector import LANES, VECTOR_BYTES, Emitter, ir_kernel

ALIGNMENT = 64


def aligned_empty(count: int) -> npt.NDArray[np.float32]:
    """Return `count` uninitialised floats that start at a cache line."""
    raw = np.empty(count + ALIGNMENT // 4, dtype=np.float32)
    start = -raw.ctypes.data % ALIGNMENT // 4
    return raw[start : start + count]


def align(address: int) -> int:
    """Return the first cache line at or after an address."""
    return -(-address // ALIGNMENT) * ALIGNMENT


def _copy(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value, whole: bool) -> None:
    """Emit a copy of `count` floats; with `whole` the target's last vector is zero-filled."""
    builder = e.builder
    turn = e.loop(builder.sdiv(count, ir.Constant(count.type, LANES)), [source, target])
    here, there = turn.values
    e.store(e.load(here), there)
    here, there = turn.close([e.shift(pointer, VECTOR_BYTES) for pointer in (here, there)])
    rest = builder.srem(count, ir.Constant(count.type, LANES))
    with builder.if_then(builder.icmp_signed(">", rest, ir.Constant(count.type, 0))):
        mask = e.lanes_below(rest)
        value = e.masked_load(here, mask)
        if whole:
            e.store(value, there)
        else:
            e.masked_store(value, there, mask)


def _copy_in(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
    _copy(e, source, target, count, True)


def _copy_out(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
    _copy(e, source, target, count, False)


def _zero(e: Emitter, target: ir.Value, vectors: ir.Value) -> None:
    turn = e.loop(vectors, [target])
    e.store(e.constant(0.0), turn.values[0])
    turn.close([e.shift(turn.values[0], VECTOR_BYTES)])


def _spread(
    e: Emitter, source: ir.Value, target: ir.Value, vectors: ir.Value, step: ir.Value
) -> None:
    turn = e.loop(vectors, [source, target])
    here, there = turn.values
    e.store(e.load(here), there)
    turn.close([e.shift(here, VECTOR_BYTES), e.shift(there, step)])


def _spread_zeros(e: Emitter, target: ir.Value, vectors: ir.Value, step: ir.Value) -> None:
    turn = e.loop(vectors, [target])
    e.store(e.constant(0.0), turn.values[0])
    turn.close([e.shift(turn.values[0], step)])


def _gather_vectors(
    e: Emitter,
    source: ir.Value,
    lane_step: ir.Value,
    lanes: ir.Value,
    target: ir.Value,
    count: ir.Value,
    source_step: ir.Value,
    target_step: ir.Value,
) -> None:
    mask = e.lanes_below(lanes)
    turn = e.loop(count, [source, target])
    here, there = turn.values
    e.store(e.gather(here, lane_step, mask), there)
    turn.close([e.shift(here, source_step), e.shift(there, target_step)])


def _pack_rows(
    e: Emitter,
    source: ir.Value,
    source_step: ir.Value,
    target: ir.Value,
    target_step: ir.Value,
    floats: ir.Value,
    count: ir.Value,
) -> None:
    outer = e.loop(count, [source, target])
    here, there = outer.values
    _copy(e, here, there, floats, True)
    outer.close([e.shift(here, source_step), e.shift(there, target_step)])


copy_in = ir_kernel("copy_in", "ppi", _copy_in)
"""copy_in(source, target, floats): into scratch; the last vector's other lanes become 0."""

copy_out = ir_kernel("copy_out", "ppi", _copy_out)
"""copy_out(source, target, floats): exactly that many floats."""

zero_vectors = ir_kernel("zero_vectors", "pi", _zero)
"""zero_vectors(target, vectors)."""

spread_vectors = ir_kernel("spread_vectors", "ppii", _spread)
"""spread_vectors(source, target, vectors, step): dense vectors to every `step` bytes."""

spread_zeros = ir_kernel("spread_zeros", "pii", _spread_zeros)
"""spread_zeros(target, vectors, step)."""

gather_vectors = ir_kernel("gather_vectors", "piipiii", _gather_vectors)
"""gather_vectors(source, lane step, lanes, target, count, source step, target step).

Vectors whose lanes lie `lane step` bytes apart, 0 from lane `lanes` on.
"""

copy_rows = ir_kernel("copy_rows", "pipiii", _pack_rows)
"""copy_rows(source, source step, target, target step, floats, count): `copy_in`, `count` times."""
