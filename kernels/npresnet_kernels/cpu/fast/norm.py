"""Batch norm over NHWC float32 activations: statistics, forward and backward, few passes.

Training forward reads x once for the statistics (in float64, partial sums of fixed chunks of rows
added in order, so any number of threads gives the same bits) and once to normalise, add the
residual and clamp. Backward reads (grad_y, y, x) once for its two sums and once for grad_x.
Formulas: S. Ioffe and C. Szegedy, "Batch Normalization", arXiv:1502.03167, 2015.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import FLOORS, Floats, address, ceil_div
from .rows import Lane, emit_vectors, row_kernel
from .vector import DOUBLE, I64, LANES, Emitter, ir_kernel, load_int

Doubles = npt.NDArray[np.float64]

(
    ROWS,
    CHANNELS,
    CHUNK,
    X,
    RESIDUAL,
    Y,
    GRAD_Y,
    GRAD_X,
    GRAD_RESIDUAL,
    MEAN,
    SCALE,
    SHIFT,
    FLOOR,
    FACTORS,
    PARTIAL,
) = range(FIRST, FIRST + 15)
SLOTS = FIRST + 15

CHUNK_FLOATS = 64 * 1024
"""Floats of a chunk of rows: an item of work, and a partial sum."""

WIDE = ir.VectorType(DOUBLE, LANES)


def _sum_rows(backward: bool) -> Callable[..., None]:
    """Return the body that sums a chunk of rows into (2, channels) doubles.

    Forward: sums of x and x^2. Backward, with arrays grad, y, x, mean, floor: sums of g and
    g * (x - mean), where g is grad where y > floor (y and floor as the ReLU left them).
    """

    def emit(
        e: Emitter, rows: ir.Value, channels: ir.Value, out: ir.Value, *arrays: ir.Value
    ) -> None:
        builder = e.builder
        step = builder.mul(channels, I64(4))
        second = builder.mul(channels, I64(8))
        zero = ir.Constant(WIDE, [0.0] * LANES)

        def body(lane: Lane, pointers: list[ir.Value]) -> None:
            sums, *here = pointers
            if backward:
                mean = builder.fpext(lane.load(here.pop()), WIDE)
                lowest = e.broadcast(arrays[4])
            turn = e.loop(rows, [*here, zero, zero])
            *now, first, square = turn.values
            value = lane.load(now[0])
            if backward:
                passes = builder.fcmp_unordered(">", lane.load(now[1]), lowest)
                value = builder.select(passes, value, e.constant(0.0))
                other = builder.fsub(builder.fpext(lane.load(now[2]), WIDE), mean)
                value = builder.fpext(value, WIDE)
            else:
                value = other = builder.fpext(value, WIDE)
            after = [builder.fadd(first, value), e.fma(value, other, square)]
            *_, first, square = turn.close([*[e.shift(p, step) for p in now], *after])
            for total, place in ((first, sums), (square, e.shift(sums, second))):
                lane.store_doubles(total, place)

        moving = [out, *arrays[:3], arrays[3]] if backward else [out, arrays[0]]
        steps = [8 * LANES] + [4 * LANES] * (len(moving) - 1)
        emit_vectors(e, channels, moving, body, steps)

    return emit


def _normalise(lane: Lane, pointers: list[ir.Value]) -> None:
    """Y = max((x - mean) * scale + shift + residual, floor)."""
    e = lane.e
    x, residual, y, mean, scale, shift, floor = pointers
    centred = e.subtract(lane.load(x), lane.load(mean))
    value = e.add(e.fma(centred, lane.load(scale), lane.load(shift)), lane.load(residual))
    lane.store(e.maximum(value, lane.load(floor)), y)


def _normalise_plain(lane: Lane, pointers: list[ir.Value]) -> None:
    """Y = max((x - mean) * scale + shift, floor)."""
    e = lane.e
    x, y, mean, scale, shift, floor = pointers
    centred = e.subtract(lane.load(x), lane.load(mean))
    value = e.fma(centred, lane.load(scale), lane.load(shift))
    lane.store(e.maximum(value, lane.load(floor)), y)


def _backward(keep: bool) -> Callable[..., None]:
    """Return the body: g = grad where y > floor; grad_x = a g + b (x - mean) + c; g kept or not."""

    def body(lane: Lane, pointers: list[ir.Value]) -> None:
        e = lane.e
        grad, y, x, grad_x, *rest = pointers
        kept = rest.pop(0) if keep else None
        a, b, c, mean, floor = rest
        passes = e.builder.fcmp_unordered(">", lane.load(y), lane.load(floor))
        value = e.builder.select(passes, lane.load(grad), e.constant(0.0))
        centred = e.subtract(lane.load(x), lane.load(mean))
        inner = e.fma(lane.load(b), centred, lane.load(c))
        lane.store(e.fma(lane.load(a), value, inner), grad_x)
        if kept is not None:
            lane.store(value, kept)

    return body


_sums_forward = ir_kernel("norm_sums", "iipp", _sum_rows(False))
_sums_backward = ir_kernel("norm_sums_grad", "iippppp" + "p", _sum_rows(True))
_forward = row_kernel("normalise", 3, 4, _normalise)
_forward_plain = row_kernel("normalise_plain", 2, 4, _normalise_plain)
_grad = row_kernel("norm_grad", 4, 5, _backward(False))
_grad_keep = row_kernel("norm_grad_keep", 5, 5, _backward(True))


@kernel
def sums_chunks(table: int, thread: int, threads: int) -> None:
    """Partial sums of x and x^2: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    item = next_item(table)
    while item >= 0:
        rows = min(chunk, load_int(table, ROWS) - item * chunk)
        out = load_int(table, PARTIAL) + item * channels * 16
        _sums_forward(rows, channels, out, load_int(table, X) + item * chunk * channels * 4)
        item = next_item(table)


@kernel
def sums_chunks_backward(table: int, thread: int, threads: int) -> None:
    """Partial sums of g and g * (x - mean): an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    item = next_item(table)
    while item >= 0:
        rows = min(chunk, load_int(table, ROWS) - item * chunk)
        out = load_int(table, PARTIAL) + item * channels * 16
        shift = item * chunk * channels * 4
        _sums_backward(
            rows,
            channels,
            out,
            load_int(table, GRAD_Y) + shift,
            load_int(table, Y) + shift,
            load_int(table, X) + shift,
            load_int(table, MEAN),
            load_int(table, FLOOR),
        )
        item = next_item(table)


@kernel
def normalise_chunks(table: int, thread: int, threads: int) -> None:
    """Normalise, add, clamp: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    item = next_item(table)
    while item >= 0:
        rows = min(chunk, load_int(table, ROWS) - item * chunk)
        shift = item * chunk * channels * 4
        x, residual, y = load_int(table, X), load_int(table, RESIDUAL), load_int(table, Y)
        mean, scale = load_int(table, MEAN), load_int(table, SCALE)
        offset, floor = load_int(table, SHIFT), load_int(table, FLOOR)
        if residual:
            _forward(
                rows, channels, x + shift, residual + shift, y + shift, mean, scale, offset, floor
            )
        else:
            _forward_plain(rows, channels, x + shift, y + shift, mean, scale, offset, floor)
        item = next_item(table)


@kernel
def backward_chunks(table: int, thread: int, threads: int) -> None:
    """The gradient of x, and that of the residual if wanted: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    item = next_item(table)
    while item >= 0:
        rows = min(chunk, load_int(table, ROWS) - item * chunk)
        shift = item * chunk * channels * 4
        grad, y, x = load_int(table, GRAD_Y), load_int(table, Y), load_int(table, X)
        grad_x, kept, factors = (
            load_int(table, GRAD_X),
            load_int(table, GRAD_RESIDUAL),
            load_int(table, FACTORS),
        )
        row = channels * 4
        mean, floor = load_int(table, MEAN), load_int(table, FLOOR)
        if kept:
            _grad_keep(
                rows,
                channels,
                grad + shift,
                y + shift,
                x + shift,
                grad_x + shift,
                kept + shift,
                factors,
                factors + row,
                factors + 2 * row,
                mean,
                floor,
            )
        else:
            _grad(
                rows,
                channels,
                grad + shift,
                y + shift,
                x + shift,
                grad_x + shift,
                factors,
                factors + row,
                factors + 2 * row,
                mean,
                floor,
            )
        item = next_item(table)


def _table(x: Floats) -> tuple[npt.NDArray[np.int64], int, int]:
    """Return a table with the sizes of x (..., C), its channels and its number of chunks."""
    channels = x.shape[-1]
    rows = x.size // max(channels, 1)
    chunk = max(1, CHUNK_FLOATS // max(channels, 1))
    table = np.zeros(SLOTS, dtype=np.int64)
    table[ROWS], table[CHANNELS], table[CHUNK] = rows, channels, chunk
    return table, channels, ceil_div(rows, chunk)


def _floors(channels: int, relu: bool) -> Floats:
    return np.full(channels, FLOORS[int(relu)], dtype=np.float32)


def channel_sums(x: Floats, sums: Doubles | None = None) -> Doubles:
    """Return each channel's sum and sum of squares over x (..., C) as (2, C) float64."""
    table, channels, chunks = _table(x)
    partial = np.empty((chunks, 2, channels))
    table[X], table[PARTIAL] = address(x), address(partial)
    run(sums_chunks, table, chunks, thread_count())
    return np.add.reduce(partial, axis=0, out=sums)


def statistics(sums: Doubles, count: int) -> tuple[Doubles, Doubles]:
    """Return mean and biased variance of `count` values from their sums."""
    mean = sums[0] / count
    return mean, np.maximum(sums[1] / count - mean * mean, 0.0)


def batch_norm_forward(
    x: Floats,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    gamma: Floats,
    beta: Floats,
    y: Floats,
    residual: Floats | None = None,
    relu: bool = False,
    eps: float = 1e-5,
) -> None:
    """Compute y = relu((x - mean) / sqrt(variance + eps) * gamma + beta + residual) in one pass.

    x, y and residual are (..., C); y may be x. The others are (C,).
    """
    table, channels, chunks = _table(x)
    centre = np.asarray(mean, dtype=np.float32)
    scale = (gamma / np.sqrt(np.asarray(variance, dtype=np.float64) + eps)).astype(np.float32)
    # what rounding the mean to float32 took away goes into the shift
    lost = np.asarray(mean, dtype=np.float64) - centre
    shift = (beta - lost * scale).astype(np.float32)
    floors = _floors(channels, relu)
    table[X], table[Y] = address(x), address(y)
    table[RESIDUAL] = 0 if residual is None else address(residual)
    table[MEAN], table[SCALE], table[SHIFT] = address(centre), address(scale), address(shift)
    table[FLOOR] = address(floors)
    run(normalise_chunks, table, chunks, thread_count())


def batch_norm_backward(
    grad_y: Floats,
    y: Floats | None,
    x: Floats,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    gamma: Floats,
    grad_x: Floats,
    grad_residual: Floats | None = None,
    eps: float = 1e-5,
) -> tuple[Floats, Floats]:
    """Compute the gradients of a training batch norm (+ residual + ReLU) in two passes.

    Parameters
    ----------
    grad_y : ndarray (..., C)
    y : ndarray (..., C) or None
        The output, if it went through ReLU: the gradient passes where y > 0. None without ReLU.
    x : ndarray (..., C)
        The input.
    mean, variance : array_like (C,)
        Of the batch, biased.
    gamma : ndarray (C,)
    grad_x : ndarray (..., C)
        Receives the gradient of x; may be grad_y.
    grad_residual : ndarray (..., C), optional
        Receives the gradient of the residual.

    Returns
    -------
    grad_gamma, grad_beta : ndarray (C,)
    """
    table, channels, chunks = _table(x)
    count = x.size // max(channels, 1)
    floors = _floors(channels, y is not None)
    centre = np.asarray(mean, dtype=np.float32)
    partial = np.empty((chunks, 2, channels))
    gate = x if y is None else y
    table[GRAD_Y], table[Y], table[X] = address(grad_y), address(gate), address(x)
    table[MEAN], table[FLOOR], table[PARTIAL] = address(centre), address(floors), address(partial)
    run(sums_chunks_backward, table, chunks, thread_count())
    total, product = np.add.reduce(partial, axis=0)
    # grad_gamma wants x - mean unrounded
    product -= (np.asarray(mean, dtype=np.float64) - centre) * total
    inverse = 1.0 / np.sqrt(np.asarray(variance, dtype=np.float64) + eps)

    factors = np.empty((3, channels), dtype=np.float32)
    factors[0] = gamma * inverse
    factors[1] = -gamma * inverse**3 * product / count
    factors[2] = -gamma * inverse * total / count
    table[GRAD_X], table[FACTORS], table[MEAN] = address(grad_x), address(factors), address(centre)
    table[GRAD_RESIDUAL] = 0 if grad_residual is None else address(grad_residual)
    table[FLOOR] = address(floors)
    run(backward_chunks, table, chunks, thread_count())
    return (product * inverse).astype(np.float32), total.astype(np.float32)
