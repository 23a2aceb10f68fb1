"""Stochastic gradient descent, with momentum and weight decay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npresnet.errors import RangeError
from npresnet.optim.optimizer import Group, Optimizer, Parameters, at_least_zero
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent as torch defines it (Sutskever et al. 2013 but for the lr).

    With d = grad + weight_decay * p and the buffer b, which begins as d: b = momentum * b +
    (1 - dampening) * d, then p -= lr * b; with Nesterov p -= lr * (d + momentum * b).

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        The tensors to change; see `Optimizer`.
    lr : float
        Step length, at least 0.
    momentum : float
        Share of the earlier direction that is kept, at least 0.
    dampening : float
        Share of the new gradient that is left out of the buffer.
    weight_decay : float
        Pull towards 0, at least 0.
    nesterov : bool
        Whether to look ahead by the momentum; needs momentum and no dampening.

    Raises
    ------
    RangeError, DtypeError
        A setting is out of range; else as `Optimizer`.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    def check_settings(self, group: Group) -> None:
        """Raise a RangeError if a setting of the group is out of range."""
        at_least_zero(self, group, "lr", "momentum", "weight_decay")
        dampening = group["dampening"]
        if not isinstance(dampening, int | float | np.number) or not math.isfinite(dampening):
            raise RangeError(f"SGD expected dampening to be a finite number, got {dampening!r}")
        if group["nesterov"] and (group["momentum"] <= 0 or dampening != 0):
            raise RangeError(
                "SGD with nesterov=True needs momentum above 0 and dampening 0, got "
                f"momentum={group['momentum']}, dampening={dampening}"
            )

    def update(self, param: Tensor, grad: Array, state: dict[str, Any], group: Group) -> None:
        """Take one step with one tensor, in place."""
        data, momentum = param.data, group["momentum"]
        buffer = state.get("momentum_buffer") if momentum else None
        first = bool(momentum) and buffer is None
        if first:
            buffer = state["momentum_buffer"] = np.empty_like(data)  # the kernel fills it
        self.kernels_for(data, grad, buffer).sgd_update_(
            data,
            grad,
            buffer,
            first,
            float(group["lr"]),
            float(momentum),
            float(group["dampening"]),
            float(group["weight_decay"]),
            bool(group["nesterov"]),
        )
