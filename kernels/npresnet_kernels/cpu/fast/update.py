"""Optimizer updates of float32 arrays, one pass over memory each; formulas as in the contract."""

from collections.abc import Callable
from math import sqrt

import numpy as np
from llvmlite import ir

from ..optim import require_writable
from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import Floats, address, ceil_div
from .rows import Lane, emit_vectors
from .vector import Emitter, ir_kernel, load_int

RULE, PARAMETER, GRADIENT, STATE, SECOND_STATE, FACTORS, COUNT = range(FIRST, FIRST + 7)

PLAIN, MOMENTUM, NESTEROV, ADAMW = range(4)
"""Rules."""

CHUNK = 32 * 1024
"""Floats in an item."""

Update = Callable[[Lane, list[ir.Value], list[ir.Value]], ir.Value]


def _update(numbers: int, states: int, change: Update) -> Callable[..., None]:
    """Return the body of an update.

    `change(lane, [parameter, gradient, states...], factors)`, given pointers and `numbers`
    factors, stores the `states` and returns the parameter's new value.
    """

    def emit(
        e: Emitter,
        count: ir.Value,
        parameter: ir.Value,
        gradient: ir.Value,
        first: ir.Value,
        second: ir.Value,
        factors: ir.Value,
    ) -> None:
        values = [e.broadcast(factors, 4 * i) for i in range(numbers)]

        def body(lane: Lane, pointers: list[ir.Value]) -> None:
            lane.store(change(lane, pointers, values), pointers[0])

        emit_vectors(e, count, [parameter, gradient, first, second][: 2 + states], body)

    return emit


def _slope(lane: Lane, pointers: list[ir.Value], decay: ir.Value) -> ir.Value:
    """Gradient + weight decay * parameter."""
    return lane.e.fma(decay, lane.load(pointers[0]), lane.load(pointers[1]))


def _plain(lane: Lane, pointers: list[ir.Value], factors: list[ir.Value]) -> ir.Value:
    """SGD without memory; `factors` are -lr, weight decay."""
    rate, decay = factors
    return lane.e.fma(rate, _slope(lane, pointers, decay), lane.load(pointers[0]))


def _momentum(nesterov: bool) -> Update:
    """SGD with momentum; `factors` are -lr, weight decay, momentum, 1 - dampening."""

    def change(lane: Lane, pointers: list[ir.Value], factors: list[ir.Value]) -> ir.Value:
        e = lane.e
        rate, decay, momentum, take = factors
        slope = _slope(lane, pointers, decay)
        velocity = e.fma(momentum, lane.load(pointers[2]), e.multiply(take, slope))
        lane.store(velocity, pointers[2])
        direction = e.fma(momentum, velocity, slope) if nesterov else velocity
        return e.fma(rate, direction, lane.load(pointers[0]))

    return change


def _adamw(lane: Lane, pointers: list[ir.Value], factors: list[ir.Value]) -> ir.Value:
    """AdamW; `factors` as `adamw_update_` makes them."""
    e = lane.e
    keep, rate, take_mean, keep_square, take_square, root_scale, eps = factors
    gradient, mean = lane.load(pointers[1]), lane.load(pointers[2])
    mean = e.fma(take_mean, e.subtract(gradient, mean), mean)
    square = e.multiply(take_square, e.multiply(gradient, gradient))
    square = e.fma(keep_square, lane.load(pointers[3]), square)
    lane.store(mean, pointers[2])
    lane.store(square, pointers[3])
    width = e.fma(e.square_root(square), root_scale, eps)
    step = e.builder.fdiv(e.multiply(rate, mean), width)
    return e.fma(keep, lane.load(pointers[0]), step)


_sgd_plain = ir_kernel("sgd_plain", "ippppp", _update(2, 0, _plain))
_sgd_momentum = ir_kernel("sgd_momentum", "ippppp", _update(4, 1, _momentum(False)))
_sgd_nesterov = ir_kernel("sgd_nesterov", "ippppp", _update(4, 1, _momentum(True)))
_adamw_step = ir_kernel("adamw_step", "ippppp", _update(7, 2, _adamw))


@kernel
def update_chunks(table: int, thread: int, threads: int) -> None:
    """An optimizer's update: an item is a chunk of a parameter."""
    rule, factors = load_int(table, RULE), load_int(table, FACTORS)
    item = next_item(table)
    while item >= 0:
        count = min(CHUNK, load_int(table, COUNT) - item * CHUNK)
        shift = item * CHUNK * 4
        parameter, gradient = load_int(table, PARAMETER) + shift, load_int(table, GRADIENT) + shift
        state, second = load_int(table, STATE) + shift, load_int(table, SECOND_STATE) + shift
        if rule == PLAIN:
            _sgd_plain(count, parameter, gradient, state, second, factors)
        elif rule == MOMENTUM:
            _sgd_momentum(count, parameter, gradient, state, second, factors)
        elif rule == NESTEROV:
            _sgd_nesterov(count, parameter, gradient, state, second, factors)
        else:
            _adamw_step(count, parameter, gradient, state, second, factors)
        item = next_item(table)


def _run(rule: int, factors: list[float], arrays: list[Floats]) -> None:
    """Update a parameter, given with its gradient and what the optimizer remembers of it."""
    parameter, _, *states = arrays
    require_writable([parameter, *states])
    table = np.zeros(COUNT + 1, dtype=np.int64)
    numbers = np.array(factors, dtype=np.float32)
    table[RULE], table[FACTORS] = rule, address(numbers)
    for slot, array in zip((PARAMETER, GRADIENT, STATE, SECOND_STATE), arrays, strict=False):
        table[slot] = address(array)
    table[COUNT] = arrays[0].size
    run(update_chunks, table, ceil_div(arrays[0].size, CHUNK), thread_count())


def takes_update(*arrays: Floats | None) -> bool:
    """Return whether the updates below can do these arrays: NumPy's, float32, C-contiguous."""
    return all(
        isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.c_contiguous
        for array in arrays
        if array is not None
    )


def sgd_update_(
    parameter: Floats,
    grad: Floats,
    momentum_buffer: Floats | None,
    first_step: bool,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """See the contract."""
    if momentum_buffer is None:
        _run(PLAIN, [-lr, weight_decay], [parameter, grad])
        return
    if first_step:  # the buffer begins as the direction itself
        momentum_buffer[...] = 0
        dampening = 0.0
    rule = NESTEROV if nesterov else MOMENTUM
    factors = [-lr, weight_decay, momentum, 1 - dampening]
    _run(rule, factors, [parameter, grad, momentum_buffer])


def adamw_update_(
    parameter: Floats,
    grad: Floats,
    exp_avg: Floats,
    exp_avg_sq: Floats,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """See the contract."""
    rate = lr / (1 - beta1**step)
    root_scale = 1 / sqrt(1 - beta2**step)
    factors = [1 - lr * weight_decay, -rate, 1 - beta1, beta2, 1 - beta2, root_scale, eps]
    _run(ADAMW, factors, [parameter, grad, exp_avg, exp_avg_sq])
