"""Optimizer updates of flat float32 buffers, one pass over memory each."""

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import Floats, address, ceil_div
from .rows import Lane, emit_vectors
from .vector import Emitter, ir_kernel, load_int

PARAMETER, GRADIENT, MOMENTUM_BUFFER, FACTORS, COUNT = range(FIRST, FIRST + 5)

CHUNK = 64 * 1024
"""Floats in an item."""


def _sgd(nesterov: bool) -> Callable[..., None]:
    """Return the body of an update; `factors` are -lr, momentum, weight decay."""

    def emit(
        e: Emitter,
        count: ir.Value,
        parameter: ir.Value,
        gradient: ir.Value,
        buffer: ir.Value,
        factors: ir.Value,
    ) -> None:
        rate, momentum, decay = (e.broadcast(factors, 4 * i) for i in range(3))

        def body(lane: Lane, pointers: list[ir.Value]) -> None:
            value, slope = lane.load(pointers[0]), lane.load(pointers[1])
            slope = e.fma(decay, value, slope)
            velocity = e.fma(momentum, lane.load(pointers[2]), slope)
            lane.store(velocity, pointers[2])
            direction = e.fma(momentum, velocity, slope) if nesterov else velocity
            lane.store(e.fma(rate, direction, value), pointers[0])

        emit_vectors(e, count, [parameter, gradient, buffer], body)

    return emit


_momentum = ir_kernel("sgd_momentum", "ipppp", _sgd(False))
_nesterov = ir_kernel("sgd_nesterov", "ipppp", _sgd(True))


@kernel
def sgd_chunks(table: int, thread: int, threads: int) -> None:
    """SGD with momentum: an item is a chunk of parameters."""
    item = next_item(table)
    while item >= 0:
        shift = item * CHUNK * 4
        _momentum(
            min(CHUNK, load_int(table, COUNT) - item * CHUNK),
            load_int(table, PARAMETER) + shift,
            load_int(table, GRADIENT) + shift,
            load_int(table, MOMENTUM_BUFFER) + shift,
            load_int(table, FACTORS),
        )
        item = next_item(table)


@kernel
def nesterov_chunks(table: int, thread: int, threads: int) -> None:
    """SGD with Nesterov's momentum: an item is a chunk of parameters."""
    item = next_item(table)
    while item >= 0:
        shift = item * CHUNK * 4
        _nesterov(
            min(CHUNK, load_int(table, COUNT) - item * CHUNK),
            load_int(table, PARAMETER) + shift,
            load_int(table, GRADIENT) + shift,
            load_int(table, MOMENTUM_BUFFER) + shift,
            load_int(table, FACTORS),
        )
        item = next_item(table)


def sgd_update(
    parameter: Floats,
    gradient: Floats,
    momentum_buffer: Floats,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """Update parameters and momentum in place, as torch's SGD without dampening.

    v = momentum * v + (gradient + weight_decay * parameter); parameter -= lr * v, or with
    `nesterov` lr * (gradient + weight_decay * parameter + momentum * v). A momentum buffer of zeros
    before the first step gives torch's first step.
    """
    table = np.zeros(COUNT + 1, dtype=np.int64)
    factors = np.array([-lr, momentum, weight_decay], dtype=np.float32)
    table[PARAMETER], table[GRADIENT] = address(parameter), address(gradient)
    table[MOMENTUM_BUFFER], table[FACTORS] = address(momentum_buffer), address(factors)
    table[COUNT] = parameter.size
    work = nesterov_chunks if nesterov else sgd_chunks
    run(work, table, ceil_div(parameter.size, CHUNK), thread_count())
