"""Batch norm over NHWC float32 activations: moments, forward and backward, few passes over memory.

Training forward reads x once for mean and variance and once to normalise, add the residual and
clamp. Backward reads (grad_y, x) once for its two sums and once for grad_x; where the ReLU passed
it works out again from x, or, if a residual came in between, reads off y, once. Forward sums are
in float64, as squares cancel; backward's run over `RUN` rows in float32, then on in float64. Chunks
of rows are fixed and added in order, so any number of threads gives the same bits.
Formulas: S. Ioffe and C. Szegedy, "Batch Normalization", arXiv:1502.03167, 2015.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from .parallel import FIRST, helper, kernel, next_item, run, thread_count
from .problem import FLOORS, Floats, address, ceil_div
from .rows import Lane, row_kernel
from .sums import RUN, Moving, call_sums, emit_sums, sum_rows
from .vector import (
    I64,
    Emitter,
    ir_kernel,
    load_double,
    load_float,
    load_int,
    store_double,
    store_float,
)

Doubles = npt.NDArray[np.float64]

(
    ROWS,
    CHANNELS,
    CHUNK,
    CHUNKS,
    X,
    RESIDUAL,
    Y,
    GRAD_Y,
    GRAD_X,
    KEPT,
    GAMMA,
    BETA,
    EPS,
    FLOOR,
    MEAN,
    VARIANCE,
    VECTORS,
    PARTIAL,
    GRAD_GAMMA,
    GRAD_BETA,
    SUMS,
    RUNNING_MEAN,
    RUNNING_VARIANCE,
    RULE,
    TOTAL,
    SLOTS,
) = range(FIRST, FIRST + 26)

CENTRE, SCALE, SHIFT, FACTOR_GRAD, FACTOR_X, FACTOR_ONE = range(6)
"""Rows of `VECTORS`, float32 numbers of each channel."""

CHUNK_FLOATS = 32 * 1024
"""Floats of a chunk of rows: an item of work, and a partial sum."""

Values = Callable[[Lane, list[ir.Value], list[ir.Value], ir.Value], tuple[ir.Value, ir.Value]]


def _sum_chunk(moving: int, values: Values) -> Callable[..., None]:
    """Return the body that sums a chunk of rows into (2, channels) doubles, as in `sums`.

    `values` is given the number `floor`, too; of the arrays `moving` are (rows, channels).
    """

    def emit(
        e: Emitter,
        rows: ir.Value,
        channels: ir.Value,
        out: ir.Value,
        floor: ir.Value,
        *arrays: ir.Value,
    ) -> None:
        step, second = (e.builder.mul(channels, I64(size)) for size in (4, 8))
        lowest = e.broadcast(floor)

        def at_floor(
            lane: Lane, pointers: list[ir.Value], constants: list[ir.Value]
        ) -> tuple[ir.Value, ir.Value]:
            return values(lane, pointers, constants, lowest)

        rows_of = [Moving(array, step) for array in arrays[:moving]]
        emit_sums(e, rows, channels, out, second, rows_of, arrays[moving:], at_floor)

    return emit


def _gated(
    lane: Lane, pointers: list[ir.Value], constants: list[ir.Value], floor: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return g and x - centre; g is grad where y, worked out from x, is above the floor."""
    e = lane.e
    grad, x = pointers
    centre, scale, shift = constants
    centred = e.subtract(lane.load(x), centre)
    return _gate(e, e.fma(centred, scale, shift), floor, lane.load(grad)), centred


def _gated_kept(
    lane: Lane, pointers: list[ir.Value], constants: list[ir.Value], floor: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return g and x - centre; g is grad where y is above the floor, and is written to `kept`."""
    grad, y, x, kept = pointers
    value = _gate(lane.e, lane.load(y), floor, lane.load(grad))
    lane.store(value, kept)
    return value, lane.e.subtract(lane.load(x), constants[0])


def _gate(e: Emitter, y: ir.Value, floor: ir.Value, grad: ir.Value) -> ir.Value:
    """Grad where y > floor, or is NaN; else 0."""
    passes = e.builder.fcmp_unordered(">", y, floor)
    return e.builder.select(passes, grad, e.constant(0.0))


def _normalise(residual: bool) -> Callable[..., None]:
    """Return the body: y = max((x - centre) * scale + shift [+ residual], floor)."""

    def body(lane: Lane, pointers: list[ir.Value]) -> None:
        e = lane.e
        *rows, centre, scale, shift, floor = pointers
        centred = e.subtract(lane.load(rows[0]), lane.load(centre))
        value = e.fma(centred, lane.load(scale), lane.load(shift))
        if residual:
            value = e.add(value, lane.load(rows[1]))
        lane.store(e.maximum(value, e.broadcast(floor)), rows[-1])

    return body


def _grad_input(lane: Lane, pointers: list[ir.Value]) -> None:
    """grad_x = a g + b (x - centre) + c, with g as in `_gated`."""
    e = lane.e
    grad, x, grad_x, centre, scale, shift, a, b, c, floor = pointers
    constants = [lane.load(p) for p in (centre, scale, shift)]
    value, centred = _gated(lane, [grad, x], constants, e.broadcast(floor))
    inner = e.fma(lane.load(b), centred, lane.load(c))
    lane.store(e.fma(lane.load(a), value, inner), grad_x)


_sums_gated = ir_kernel("norm_sums_gated", "iippppppp", _sum_chunk(2, _gated))
_sums_kept = ir_kernel("norm_sums_kept", "iippppppp", _sum_chunk(4, _gated_kept))
_forward = row_kernel("normalise", 3, 3, _normalise(True), numbers=1)
_forward_plain = row_kernel("normalise_plain", 2, 3, _normalise(False), numbers=1)
_grad = row_kernel("norm_grad", 3, 6, _grad_input, numbers=1)


@helper
def vector_of(table: int, name: int) -> int:
    """Return the address of one of `VECTORS`."""
    return load_int(table, VECTORS) + name * load_int(table, CHANNELS) * 4


@helper
def partial_sums(table: int, channel: int) -> tuple[float, float]:
    """Add up both sums of a channel over the chunks, in order."""
    channels = load_int(table, CHANNELS)
    partial = load_int(table, PARTIAL)
    first, second = 0.0, 0.0
    for chunk in range(load_int(table, CHUNKS)):
        first += load_double(partial, 2 * chunk * channels + channel)
        second += load_double(partial, (2 * chunk + 1) * channels + channel)
    return first, second


@kernel
def moments_chunks(table: int, thread: int, threads: int) -> None:
    """Partial sums of x and x^2: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    item = next_item(table)
    while item >= 0:
        call_sums(
            load_int(table, SUMS),
            min(chunk, load_int(table, ROWS) - item * chunk),
            channels,
            load_int(table, PARTIAL) + item * channels * 16,
            load_int(table, X) + item * chunk * channels * 4,
        )
        item = next_item(table)


@kernel
def moments_finish(table: int, thread: int, threads: int) -> None:
    """Mean and biased variance from the partial sums, which are added to the first: one item."""
    count = load_int(table, ROWS)
    channels = load_int(table, CHANNELS)
    partial = load_int(table, PARTIAL)
    if next_item(table) == 0:
        for chunk in range(1, load_int(table, CHUNKS)):
            for place in range(2 * channels):
                more = load_double(partial, 2 * chunk * channels + place)
                store_double(partial, place, load_double(partial, place) + more)
        for channel in range(channels):
            mean = load_double(partial, channel) / count
            square = load_double(partial, channels + channel) / count
            store_double(load_int(table, MEAN), channel, mean)
            store_double(load_int(table, VARIANCE), channel, max(square - mean * mean, 0.0))


@kernel
def running_update(table: int, thread: int, threads: int) -> None:
    """Move running statistics: one item; `RULE` is the momentum and n / (n - 1)."""
    momentum, unbiased = (
        load_double(load_int(table, RULE), 0),
        load_double(load_int(table, RULE), 1),
    )
    if next_item(table) == 0:
        for channel in range(load_int(table, CHANNELS)):
            mean = load_double(load_int(table, MEAN), channel)
            variance = load_double(load_int(table, VARIANCE), channel) * unbiased
            old_mean = load_float(load_int(table, RUNNING_MEAN), channel)
            old_variance = load_float(load_int(table, RUNNING_VARIANCE), channel)
            new_mean = np.float32(old_mean + momentum * (mean - old_mean))
            new_variance = np.float32(old_variance + momentum * (variance - old_variance))
            store_float(load_int(table, RUNNING_MEAN), channel, new_mean)
            store_float(load_int(table, RUNNING_VARIANCE), channel, new_variance)


@kernel
def channel_totals(table: int, thread: int, threads: int) -> None:
    """The sum of each channel from the partial sums: one item."""
    if next_item(table) == 0:
        for channel in range(load_int(table, CHANNELS)):
            total, _ = partial_sums(table, channel)
            store_float(load_int(table, TOTAL), channel, np.float32(total))


@kernel
def normalise_prepare(table: int, thread: int, threads: int) -> None:
    """Centre, scale and shift: one item."""
    if next_item(table) == 0:
        for channel in range(load_int(table, CHANNELS)):
            mean = load_double(load_int(table, MEAN), channel)
            variance = load_double(load_int(table, VARIANCE), channel)
            centre = np.float32(mean)
            inverse = 1.0 / sqrt(variance + load_double(load_int(table, EPS), 0))
            scale = np.float32(load_float(load_int(table, GAMMA), channel) * inverse)
            # what rounding the mean to float32 took away goes into the shift
            shift = load_float(load_int(table, BETA), channel) - (mean - centre) * scale
            store_float(vector_of(table, CENTRE), channel, centre)
            store_float(vector_of(table, SCALE), channel, scale)
            store_float(vector_of(table, SHIFT), channel, np.float32(shift))


@kernel
def normalise_chunks(table: int, thread: int, threads: int) -> None:
    """Normalise, add, clamp: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    centre, scale = vector_of(table, CENTRE), vector_of(table, SCALE)
    offset, floor = vector_of(table, SHIFT), load_int(table, FLOOR)
    item = next_item(table)
    while item >= 0:
        rows = min(chunk, load_int(table, ROWS) - item * chunk)
        shift = item * chunk * channels * 4
        x, y = load_int(table, X) + shift, load_int(table, Y) + shift
        residual = load_int(table, RESIDUAL)
        if residual:
            residual += shift
            _forward(rows, channels, x, residual, y, centre, scale, offset, floor)
        else:
            _forward_plain(rows, channels, x, y, centre, scale, offset, floor)
        item = next_item(table)


@kernel
def backward_sums(table: int, thread: int, threads: int) -> None:
    """Partial sums of g and g * (x - centre), and g itself if asked: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    floor, centre = load_int(table, FLOOR), vector_of(table, CENTRE)
    item = next_item(table)
    while item >= 0:
        rows = min(chunk, load_int(table, ROWS) - item * chunk)
        out = load_int(table, PARTIAL) + item * channels * 16
        shift = item * chunk * channels * 4
        grad, x = load_int(table, GRAD_Y) + shift, load_int(table, X) + shift
        if load_int(table, KEPT):
            y, kept = load_int(table, Y) + shift, load_int(table, KEPT) + shift
            _sums_kept(rows, channels, out, floor, grad, y, x, kept, centre)
        else:
            scale, offset = vector_of(table, SCALE), vector_of(table, SHIFT)
            _sums_gated(rows, channels, out, floor, grad, x, centre, scale, offset)
        item = next_item(table)


@kernel
def backward_finish(table: int, thread: int, threads: int) -> None:
    """Gradients of gamma and beta, and the factors of grad_x: one item."""
    count = load_int(table, ROWS)
    if next_item(table) == 0:
        for channel in range(load_int(table, CHANNELS)):
            total, product = partial_sums(table, channel)
            mean = load_double(load_int(table, MEAN), channel)
            variance = load_double(load_int(table, VARIANCE), channel)
            gamma = load_float(load_int(table, GAMMA), channel)
            # grad_gamma wants x - mean unrounded
            product -= (mean - np.float32(mean)) * total
            inverse = 1.0 / sqrt(variance + load_double(load_int(table, EPS), 0))
            store_float(load_int(table, GRAD_GAMMA), channel, np.float32(product * inverse))
            store_float(load_int(table, GRAD_BETA), channel, np.float32(total))
            slope = gamma * inverse
            store_float(vector_of(table, FACTOR_GRAD), channel, np.float32(slope))
            factor = -slope * inverse * inverse * product / count
            store_float(vector_of(table, FACTOR_X), channel, np.float32(factor))
            store_float(vector_of(table, FACTOR_ONE), channel, np.float32(-slope * total / count))


@kernel
def backward_chunks(table: int, thread: int, threads: int) -> None:
    """The gradient of x: an item is a chunk of rows."""
    channels = load_int(table, CHANNELS)
    chunk = load_int(table, CHUNK)
    item = next_item(table)
    while item >= 0:
        shift = item * chunk * channels * 4
        _grad(
            min(chunk, load_int(table, ROWS) - item * chunk),
            channels,
            load_int(table, GRAD_Y) + shift,
            load_int(table, X) + shift,
            load_int(table, GRAD_X) + shift,
            vector_of(table, CENTRE),
            vector_of(table, SCALE),
            vector_of(table, SHIFT),
            vector_of(table, FACTOR_GRAD),
            vector_of(table, FACTOR_X),
            vector_of(table, FACTOR_ONE),
            load_int(table, FLOOR),
        )
        item = next_item(table)


def _table(x: Floats) -> npt.NDArray[np.int64]:
    """Return a table with the sizes of x (..., C)."""
    channels = x.shape[-1]
    rows = x.size // max(channels, 1)
    chunk = max(RUN, CHUNK_FLOATS // max(channels, 1))
    table = np.zeros(SLOTS, dtype=np.int64)
    table[ROWS], table[CHANNELS], table[CHUNK] = rows, channels, chunk
    table[CHUNKS] = ceil_div(rows, chunk)
    table[X] = address(x)
    table[FLOOR] = address(FLOORS)
    return table


def _sums(x: Floats) -> tuple[npt.NDArray[np.int64], Doubles]:
    """Return a table for x (..., C), and the sums of x and x^2 over chunks of rows."""
    table = _table(x)
    channels, chunks = x.shape[-1], int(table[CHUNKS])
    partial = np.empty((chunks, 2, channels))
    table[PARTIAL], table[SUMS] = address(partial), sum_rows.address
    run(moments_chunks, table, chunks, thread_count())
    return table, partial


def moments(x: Floats, out: Doubles | None = None) -> Doubles:
    """Return each channel's mean and biased variance over x (..., C) as (2, C) float64."""
    table, partial = _sums(x)
    out = np.empty((2, x.shape[-1])) if out is None else out
    moments_of_sums(partial, int(table[ROWS]), out)
    return out


def channel_sum(x: Floats, out: Floats) -> None:
    """Write the sum of each channel of x (..., C)."""
    table, partial = _sums(x)
    table[TOTAL] = address(out)
    run(channel_totals, table, 1, 1)
    del partial


def update_running_(
    moments: Doubles, running_mean: Floats, running_var: Floats, momentum: float, count: int
) -> None:
    """Move running statistics (C,) towards those of a batch of `count` values a channel."""
    rule = np.array([momentum, count / (count - 1)])
    table = np.zeros(SLOTS, dtype=np.int64)
    table[CHANNELS], table[RULE] = running_mean.size, address(rule)
    table[MEAN], table[VARIANCE] = address(moments[0]), address(moments[1])
    table[RUNNING_MEAN], table[RUNNING_VARIANCE] = address(running_mean), address(running_var)
    run(running_update, table, 1, 1)


def moments_of_sums(partial: Doubles, rows: int, out: Doubles) -> None:
    """Write means and biased variances (2, C) from sums over parts of `rows` rows (parts, 2, C).

    Of no rows they are NaN. The first part's sums are overwritten.
    """
    if not len(partial):
        out[...] = np.nan
        return
    table = np.zeros(SLOTS, dtype=np.int64)
    table[ROWS], table[CHANNELS], table[CHUNKS] = rows, partial.shape[2], len(partial)
    table[PARTIAL] = address(partial)
    table[MEAN], table[VARIANCE] = address(out[0]), address(out[1])
    run(moments_finish, table, 1, 1)


def _normalising(
    table: npt.NDArray[np.int64],
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    gamma: Floats,
    beta: Floats,
    relu: bool,
    eps: float,
) -> tuple[npt.NDArray[np.generic], ...]:
    """Work out centre, scale and shift; return what must stay alive."""
    wide = np.ascontiguousarray(mean, np.float64), np.ascontiguousarray(variance, np.float64)
    vectors = np.empty((FACTOR_ONE + 1, gamma.size), dtype=np.float32)
    number = np.array(eps)
    table[MEAN], table[VARIANCE] = address(wide[0]), address(wide[1])
    table[GAMMA], table[BETA], table[EPS] = address(gamma), address(beta), address(number)
    table[VECTORS] = address(vectors)
    table[FLOOR] = address(FLOORS) + 4 * relu
    run(normalise_prepare, table, 1, 1)
    return (*wide, vectors, number)


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
    table = _table(x)
    alive = _normalising(table, mean, variance, gamma, beta, relu, eps)
    table[Y] = address(y)
    table[RESIDUAL] = 0 if residual is None else address(residual)
    run(normalise_chunks, table, int(table[CHUNKS]), thread_count())
    del alive


def batch_norm_backward(
    grad_y: Floats,
    x: Floats,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    gamma: Floats,
    beta: Floats,
    grad_x: Floats,
    relu: bool = False,
    y: Floats | None = None,
    grad_residual: Floats | None = None,
    eps: float = 1e-5,
    grads: tuple[Floats, Floats] | None = None,
) -> tuple[Floats, Floats]:
    """Compute the gradients of a training batch norm (+ residual + ReLU) in two passes.

    Parameters
    ----------
    grad_y : ndarray (..., C)
    x : ndarray (..., C)
        The input.
    mean, variance : array_like (C,)
        Of the batch, biased.
    gamma, beta : ndarray (C,)
    grad_x : ndarray (..., C)
        Receives the gradient of x; may be `grad_y` if there is no `grad_residual`.
    relu : bool
        Whether a ReLU followed: the gradient passes where its input was above 0.
    y : ndarray (..., C), optional
        The output; needed if a residual was added before a ReLU.
    grad_residual : ndarray (..., C), optional
        Receives the gradient of the residual; may be `grad_y`.
    grads : tuple of ndarray (C,), optional
        Memory for what is returned.

    Returns
    -------
    grad_gamma, grad_beta : ndarray (C,)
    """
    table = _table(x)
    channels, chunks = x.shape[-1], int(table[CHUNKS])
    alive = _normalising(table, mean, variance, gamma, beta, relu, eps)
    partial = np.empty((chunks, 2, channels))
    if grads is None:
        grads = np.empty(channels, np.float32), np.empty(channels, np.float32)
    table[PARTIAL] = address(partial)
    table[GRAD_GAMMA], table[GRAD_BETA] = address(grads[0]), address(grads[1])
    table[GRAD_Y], table[GRAD_X] = address(grad_y), address(grad_x)
    keeps = grad_residual is not None or (relu and y is not None)
    if keeps:
        table[KEPT] = address(grad_x if grad_residual is None else grad_residual)
        table[Y] = address(x if y is None else y)
    run(backward_sums, table, chunks, thread_count())
    run(backward_finish, table, 1, 1)
    if keeps:  # what passes is known now
        table[GRAD_Y], table[FLOOR] = table[KEPT], address(FLOORS)
    run(backward_chunks, table, chunks, thread_count())
    del alive
    return grads
