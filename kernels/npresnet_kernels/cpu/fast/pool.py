"""Pools over NHWC float32: max pool with its winners, and the global average.

A maximum is the first of its window, NaN wins, padding never does, as in torch. Training keeps
the winner's number in its window as a byte; backward gathers: each input asks the windows that
cover it whether it won, so no two threads ever write the same place.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import Floats, address, ceil_div
from .rows import Lane, emit_vectors
from .vector import BYTE, FLOAT, I64, LANES, Emitter, ir_kernel, load_int

Bytes = npt.NDArray[np.uint8]

(
    X,
    Y,
    WINNERS,
    HEIGHT,
    WIDTH,
    CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    WINDOW,
    STEP,
    PADDING,
) = range(FIRST, FIRST + 11)

PART = 128
"""Channels of a whole map that an item takes the mean of."""


def _window(keep: bool) -> Callable[..., None]:
    """Return the body of the maximum over `rows` x `columns` pixels from `x` on.

    The winner's number counts taps from `first`, `row_taps` more a row.
    """

    def emit(
        e: Emitter,
        x: ir.Value,
        rows: ir.Value,
        columns: ir.Value,
        row_step: ir.Value,
        step: ir.Value,
        channels: ir.Value,
        first: ir.Value,
        row_taps: ir.Value,
        y: ir.Value,
        winners: ir.Value,
    ) -> None:
        builder = e.builder

        def body(lane: Lane, pointers: list[ir.Value]) -> None:
            source, target, places = pointers
            lowest = e.constant(-np.inf)
            winner = e.spread(builder.trunc(first, BYTE))
            outer = e.loop(rows, [source, first, lowest, winner])
            row, number, best, winner = outer.values
            inner = e.loop(columns, [row, number, best, winner])
            here, tap, best, winner = inner.values
            value = lane.load(here)
            larger = builder.or_(
                builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
            )
            best = builder.select(larger, value, best)
            winner = builder.select(larger, e.spread(builder.trunc(tap, BYTE)), winner)
            after = [e.shift(here, step), builder.add(tap, I64(1)), best, winner]
            _, _, best, winner = inner.close(after)
            after = [e.shift(row, row_step), builder.add(number, row_taps), best, winner]
            _, _, best, winner = outer.close(after)
            lane.store(best, target)
            if keep:
                lane.store_bytes(winner, places)

        emit_vectors(e, channels, [x, y, winners], body, [4 * LANES, 4 * LANES, LANES])

    return emit


def _collect(
    e: Emitter,
    grad_y: ir.Value,
    winners: ir.Value,
    channels: ir.Value,
    rows: ir.Value,
    columns: ir.Value,
    row_outputs: ir.Value,
    tap: ir.Value,
    tap_row: ir.Value,
    tap_step: ir.Value,
    grad_x: ir.Value,
) -> None:
    """Emit one input's gradient: of `rows` x `columns` windows from `grad_y` on, those it won.

    It is number `tap` of the first window, `tap_row` less in the next row's, `tap_step` less in
    the next column's.
    """
    builder = e.builder
    pixel = builder.mul(channels, I64(4))

    def body(lane: Lane, pointers: list[ir.Value]) -> None:
        source, places, target = pointers
        outer = e.loop(rows, [source, places, tap, e.constant(0.0)])
        row, row_places, row_tap, total = outer.values
        inner = e.loop(columns, [row, row_places, row_tap, total])
        here, there, number, total = inner.values
        won = builder.icmp_signed(
            "==", lane.load_bytes(there), e.spread(builder.trunc(number, BYTE))
        )
        value = builder.select(won, lane.load(here), e.constant(0.0))
        total = e.add(total, value)
        number = builder.sub(number, tap_step)
        *_, total = inner.close([e.shift(here, pixel), e.shift(there, channels), number, total])
        after = [
            e.shift(row, builder.mul(row_outputs, pixel)),
            e.shift(row_places, builder.mul(row_outputs, channels)),
            builder.sub(row_tap, tap_row),
            total,
        ]
        *_, total = outer.close(after)
        lane.store(total, target)

    emit_vectors(e, channels, [grad_y, winners, grad_x], body, [4 * LANES, LANES, 4 * LANES])


def _mean(
    e: Emitter, x: ir.Value, pixels: ir.Value, step: ir.Value, channels: ir.Value, y: ir.Value
) -> None:
    """Emit the mean of `channels` channels over pixels `step` bytes apart."""

    def body(lane: Lane, pointers: list[ir.Value]) -> None:
        source, target = pointers
        turn = e.loop(pixels, [source, e.constant(0.0)])
        here, total = turn.values
        _, total = turn.close([e.shift(here, step), e.add(total, lane.load(here))])
        count = e.spread(e.builder.sitofp(pixels, FLOAT))
        lane.store(e.builder.fdiv(total, count), target)

    emit_vectors(e, channels, [x, y], body)


def _spread(e: Emitter, grad: ir.Value, channels: ir.Value, pixels: ir.Value, x: ir.Value) -> None:
    """Emit the mean's gradient over dense pixels of `channels` channels."""
    step = e.builder.mul(channels, I64(4))

    def body(lane: Lane, pointers: list[ir.Value]) -> None:
        source, target = pointers
        count = e.spread(e.builder.sitofp(pixels, FLOAT))
        value = e.builder.fdiv(lane.load(source), count)
        turn = e.loop(pixels, [target])
        lane.store(value, turn.values[0])
        turn.close([e.shift(turn.values[0], step)])

    emit_vectors(e, channels, [grad, x], body)


_mean_map = ir_kernel("mean_map", "piiip", _mean)
_spread_mean = ir_kernel("spread_mean", "piip", _spread)
_max = ir_kernel("max_window", "piiiiiiipp", _window(False))
_max_keep = ir_kernel("max_window_keep", "piiiiiiipp", _window(True))
_max_grad = ir_kernel("max_grad", "ppiiiiiiip", _collect)


@kernel
def max_rows(table: int, thread: int, threads: int) -> None:
    """Max pool: an item is a row of outputs."""
    height, width = load_int(table, HEIGHT), load_int(table, WIDTH)
    channels, window = load_int(table, CHANNELS), load_int(table, WINDOW)
    out_height, out_width = load_int(table, OUT_HEIGHT), load_int(table, OUT_WIDTH)
    step, padding = load_int(table, STEP), load_int(table, PADDING)
    winners = load_int(table, WINNERS)
    item = next_item(table)
    while item >= 0:
        top = item % out_height * step - padding
        low, high = max(top, 0), min(top + window, height)
        for j in range(out_width):
            left = j * step - padding
            first, last = max(left, 0), min(left + window, width)
            pixel = (item // out_height * height + low) * width + first
            source = load_int(table, X) + pixel * channels * 4
            out = (item * out_width + j) * channels
            tap = (low - top) * window + first - left
            place = load_int(table, Y) + out * 4
            row = width * channels * 4
            rows, columns = high - low, last - first
            if winners:
                _max_keep(
                    source,
                    rows,
                    columns,
                    row,
                    channels * 4,
                    channels,
                    tap,
                    window,
                    place,
                    winners + out,
                )
            else:
                _max(source, rows, columns, row, channels * 4, channels, tap, window, place, place)
        item = next_item(table)


@kernel
def max_grad_rows(table: int, thread: int, threads: int) -> None:
    """Gradient of a max pool: an item is a row of inputs."""
    height, width = load_int(table, HEIGHT), load_int(table, WIDTH)
    channels, window = load_int(table, CHANNELS), load_int(table, WINDOW)
    out_height, out_width = load_int(table, OUT_HEIGHT), load_int(table, OUT_WIDTH)
    step, padding = load_int(table, STEP), load_int(table, PADDING)
    item = next_item(table)
    while item >= 0:
        # window p covers h if p * step - padding <= h < p * step - padding + window
        h = item % height + padding
        low = max((h - window + step) // step, 0)
        high = min(h // step + 1, out_height)
        for w in range(width):
            first = max((w + padding - window + step) // step, 0)
            last = min((w + padding) // step + 1, out_width)
            out = ((item // height * out_height + low) * out_width + first) * channels
            _max_grad(
                load_int(table, Y) + out * 4,
                load_int(table, WINNERS) + out,
                channels,
                high - low,
                last - first,
                out_width,
                (h - low * step) * window + w + padding - first * step,
                step * window,
                step,
                load_int(table, X) + (item * width + w) * channels * 4,
            )
        item = next_item(table)


@kernel
def mean_parts(table: int, thread: int, threads: int) -> None:
    """Mean over whole maps: an item is a part of an image's channels."""
    pixels = load_int(table, HEIGHT) * load_int(table, WIDTH)
    channels = load_int(table, CHANNELS)
    parts = (channels + PART - 1) // PART
    item = next_item(table)
    while item >= 0:
        image, first = item // parts, item % parts * PART
        _mean_map(
            load_int(table, X) + (image * pixels * channels + first) * 4,
            pixels,
            channels * 4,
            min(PART, channels - first),
            load_int(table, Y) + (image * channels + first) * 4,
        )
        item = next_item(table)


@kernel
def mean_grad(table: int, thread: int, threads: int) -> None:
    """Gradient of the mean over whole maps: an item is an image."""
    pixels = load_int(table, HEIGHT) * load_int(table, WIDTH)
    channels = load_int(table, CHANNELS)
    image = next_item(table)
    while image >= 0:
        grad = load_int(table, Y) + image * channels * 4
        _spread_mean(grad, channels, pixels, load_int(table, X) + image * pixels * channels * 4)
        image = next_item(table)


def _table(
    x: Floats, y: Floats, winners: Bytes | None, window: int, stride: int, padding: int
) -> npt.NDArray[np.int64]:
    table = np.zeros(PADDING + 1, dtype=np.int64)
    table[X], table[Y] = address(x), address(y)
    table[WINNERS] = 0 if winners is None else address(winners)
    _, table[HEIGHT], table[WIDTH], table[CHANNELS] = x.shape
    table[OUT_HEIGHT], table[OUT_WIDTH] = y.shape[1:3]
    table[WINDOW], table[STEP], table[PADDING] = window, stride, padding
    return table


def max_pool_forward(
    x: Floats,
    y: Floats,
    winners: Bytes | None = None,
    kernel_size: int = 3,
    stride: int = 2,
    padding: int = 1,
) -> None:
    """Compute y (N, P, Q, C), each the maximum of a window of x (N, H, W, C).

    Parameters
    ----------
    x, y : ndarray
    winners : ndarray of uint8 (N, P, Q, C), optional
        Receives the winner's number in its window, r * kernel_size + s; for `max_pool_backward`.
    kernel_size, stride, padding : int
        Of at most 15, any, at most half the kernel size.
    """
    table = _table(x, y, winners, kernel_size, stride, padding)
    run(max_rows, table, y.shape[0] * y.shape[1], thread_count())


def max_pool_backward(
    grad_y: Floats,
    winners: Bytes,
    grad_x: Floats,
    kernel_size: int = 3,
    stride: int = 2,
    padding: int = 1,
) -> None:
    """Compute the gradient of x (N, H, W, C) from that of y (N, P, Q, C) and the winners."""
    table = _table(grad_x, grad_y, winners, kernel_size, stride, padding)
    run(max_grad_rows, table, grad_x.shape[0] * grad_x.shape[1], thread_count())


def average_pool_forward(x: Floats, y: Floats) -> None:
    """Compute y (N, C), the mean of x (N, H, W, C) over its pixels."""
    table = np.zeros(PADDING + 1, dtype=np.int64)
    table[X], table[Y] = address(x), address(y)
    images, table[HEIGHT], table[WIDTH], table[CHANNELS] = x.shape
    run(mean_parts, table, images * ceil_div(x.shape[-1], PART), thread_count())


def average_pool_backward(grad_y: Floats, grad_x: Floats) -> None:
    """Spread the gradient of y (N, C) over the pixels of x (N, H, W, C)."""
    table = np.zeros(PADDING + 1, dtype=np.int64)
    table[X], table[Y] = address(grad_x), address(grad_y)
    images, table[HEIGHT], table[WIDTH], table[CHANNELS] = grad_x.shape
    run(mean_grad, table, images, thread_count())
