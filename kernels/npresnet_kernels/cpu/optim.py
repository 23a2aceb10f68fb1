"""Optimizer updates, in place: each one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.cpu.jit import jit
from npresnet_kernels.cpu.threads import run, spans

__all__ = ["adamw_update_", "sgd_update_"]


def require_writable(arrays: Iterable[Array]) -> None:
    """Raise ValueError if an array that is to change is read-only: compiled code doesn't look."""
    if not all(array.flags.writeable for array in arrays):
        raise ValueError(
            "an optimizer can't change an array that is read-only (a memory map, or another "
            "library's): give the parameter a copy, parameter.data = parameter.data.copy()"
        )


def _in_place(update: Callable[..., None], changed: list[Array], grad: Array) -> None:
    """Call update(flat arrays, flat grad, start, stop) on all threads."""
    require_writable(changed)
    flat = [np.ascontiguousarray(array).reshape(-1) for array in changed]
    source = np.ascontiguousarray(grad).reshape(-1)
    parts = spans(source.size)

    def part(k: int) -> None:
        update(*flat, source, *parts[k])

    run(part, len(parts))
    for array, done in zip(changed, flat, strict=True):
        if not array.flags.c_contiguous:
            array[...] = done.reshape(array.shape)


@jit
def _sgd(
    parameter: Array,
    buffer: Array,
    grad: Array,
    start: int,
    stop: int,
    has_buffer: bool,
    first_step: bool,
    nesterov: bool,
    lr: float,
    momentum: float,
    take: float,
    weight_decay: float,
) -> None:
    """Elements start to stop; `take` is 1 - dampening."""
    for k in range(np.uintp(start), np.uintp(stop)):
        d = grad[k] + weight_decay * parameter[k]
        if has_buffer:
            kept = d if first_step else momentum * buffer[k] + take * d
            buffer[k] = kept
            d = d + momentum * kept if nesterov else kept
        parameter[k] -= lr * d


def sgd_update_(
    parameter: Array,
    grad: Array,
    momentum_buffer: Array | None,
    first_step: bool,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """See the contract."""
    scalars = [parameter.dtype.type(v) for v in (lr, momentum, 1 - dampening, weight_decay)]
    flags = (momentum_buffer is not None, first_step, nesterov)

    def update(p: Array, *rest: object) -> None:
        buffer = () if flags[0] else (p,)  # without momentum, a stand-in that is not touched
        _sgd(*(p, *buffer, *rest, *flags, *scalars))

    changed = [parameter] if momentum_buffer is None else [parameter, momentum_buffer]
    _in_place(update, changed, grad)


@jit
def _adamw(
    parameter: Array,
    mean: Array,
    square: Array,
    grad: Array,
    start: int,
    stop: int,
    keep: float,
    rate: float,
    take_mean: float,
    beta2: float,
    take_square: float,
    correction: float,
    eps: float,
) -> None:
    """Elements start to stop."""
    for k in range(np.uintp(start), np.uintp(stop)):
        g = grad[k]
        m = mean[k] + take_mean * (g - mean[k])
        v = beta2 * square[k] + take_square * g * g
        mean[k] = m
        square[k] = v
        parameter[k] = keep * parameter[k] - rate * m / (np.sqrt(v) / correction + eps)


def adamw_update_(
    parameter: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """See the contract."""
    keep = 1 - lr * weight_decay
    rate = lr / (1 - beta1**step)
    correction = math.sqrt(1 - beta2**step)
    values = (keep, rate, 1 - beta1, beta2, 1 - beta2, correction, eps)
    scalars = [parameter.dtype.type(v) for v in values]

    def update(*arguments: object) -> None:
        _adamw(*(*arguments, *scalars))

    _in_place(update, [parameter, exp_avg, exp_avg_sq], grad)
