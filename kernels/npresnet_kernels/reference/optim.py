"""Optimizer updates, in place."""

from __future__ import annotations

import math

import numpy as np

from npresnet_kernels.contract import Array


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
    """With buffer b: b = momentum * b + (1 - dampening) * d; parameter -= lr * b."""
    d = grad + weight_decay * parameter if weight_decay else grad
    if momentum_buffer is not None:
        if first_step:
            momentum_buffer[...] = d
        else:
            momentum_buffer *= momentum
            momentum_buffer += (1 - dampening) * d
        d = d + momentum * momentum_buffer if nesterov else momentum_buffer
    parameter -= lr * d


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
    """Algorithm 2 of Loshchilov and Hutter 2019, arXiv:1711.05101, decay scaled by lr as torch."""
    parameter *= 1 - lr * weight_decay
    exp_avg += (1 - beta1) * (grad - exp_avg)
    exp_avg_sq *= beta2
    exp_avg_sq += (1 - beta2) * grad * grad
    denominator = np.sqrt(exp_avg_sq) / math.sqrt(1 - beta2**step) + eps
    parameter -= lr / (1 - beta1**step) * exp_avg / denominator
