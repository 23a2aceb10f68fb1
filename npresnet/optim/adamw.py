"""AdamW: steps scaled by running moments of the gradient, weight decay apart from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.errors import RangeError
from npresnet.optim.optimizer import Group, Optimizer, Parameters, at_least_zero, share
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["AdamW"]


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), as torch's.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        The tensors to change; see `Optimizer`.
    lr : float
        Step length, at least 0.
    betas : (float, float)
        How much of the running mean of the gradient and of its square is kept a step, below 1.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        Pull towards 0, scaled by lr.

    Raises
    ------
    RangeError, DtypeError
        A setting is out of range; else as `Optimizer`.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def check_settings(self, group: Group) -> None:
        """Raise a RangeError if a setting of the group is out of range."""
        at_least_zero(self, group, "lr", "eps", "weight_decay")
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise RangeError(f"AdamW expected betas to be two numbers, got {betas!r}")
        share(self, "betas[0]", betas[0])
        share(self, "betas[1]", betas[1])

    def update(self, param: Tensor, grad: Array, state: dict[str, Any], group: Group) -> None:
        """Take one step with one tensor, in place."""
        data = param.data
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(data), exp_avg_sq=np.zeros_like(data))
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        self.kernels_for(data, grad, mean, square).adamw_update_(
            data,
            grad,
            mean,
            square,
            int(state["step"]),
            float(group["lr"]),
            float(beta1),
            float(beta2),
            float(group["eps"]),
            float(group["weight_decay"]),
        )
