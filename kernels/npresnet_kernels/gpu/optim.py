"""Optimizer updates, in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import array_module, blocks, launch, scalar_type

__all__ = ["adamw_update_", "sgd_update_"]


def _update(kernel: str, changed: list[Array | None], grad: Array, *scalars: Any) -> None:
    """Run a kernel over the arrays it changes, the parameter first, and the gradient.

    What isn't C-contiguous is updated in a copy and written back.
    """
    xp = array_module()
    if not grad.size:
        return
    work = [a if a is None else xp.ascontiguousarray(a) for a in changed]
    parameter, *moments = work
    arguments = (parameter, xp.ascontiguousarray(grad), *moments, grad.size, *scalars)
    defines = {"SCALAR": scalar_type(grad)}
    launch("optim.cu", kernel, blocks(grad.size), arguments, defines=defines)
    for array, copy in zip(changed, work, strict=True):
        if array is not None and not array.flags.c_contiguous:
            array[...] = copy


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
    """One step of torch's SGD."""
    numbers = [float(v) for v in (lr, momentum, dampening, weight_decay)]
    flags = np.int32(first_step), np.int32(nesterov)
    _update("sgd_update", [parameter, momentum_buffer], grad, flags[0], *numbers, flags[1])


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
    """One step of torch's AdamW."""
    corrections = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    numbers = (1 - lr * weight_decay, beta1, beta2, eps, *corrections)
    changed: list[Array | None] = [parameter, exp_avg, exp_avg_sq]
    _update("adamw_update", changed, grad, *map(float, numbers))
