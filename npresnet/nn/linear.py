"""The linear layer, and the layers that only change shapes."""

from __future__ import annotations

import math
from typing import Any

from npresnet import functional as F
from npresnet.errors import RangeError
from npresnet.nn import init
from npresnet.nn._new import new_parameter
from npresnet.nn.module import Module, Parameter
from npresnet.tensor import Tensor

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(Module):
    """y = x W^T + b with learned W (O, I) and b (O,).

    Parameters
    ----------
    in_features, out_features : int
        I and O.
    bias : bool
        Whether there is a b.
    dtype : dtype, optional
        float32 if None.

    Raises
    ------
    RangeError
        If a size is below 1.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            raise RangeError(
                f"Linear needs at least one feature on each side, got in_features={in_features}, "
                f"out_features={out_features}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.weight = new_parameter(out_features, in_features, dtype=dtype)
        self.bias = new_parameter(out_features, dtype=dtype) if bias else None
        if not bias:
            self.register_parameter("bias", None)
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly from ±1 / sqrt(in_features), torch's default."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply (..., I) to (..., O)."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Flatten(Module):
    """Make dimensions ``start_dim`` to ``end_dim`` one: (N, C, H, W) to (N, C * H * W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Flatten the input."""
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """Hand the input through; any arguments are taken and ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return the input."""
        return input
