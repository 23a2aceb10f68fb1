"""The convolution layer."""

from __future__ import annotations

import math
from typing import Any

from npresnet import functional as F
from npresnet.errors import RangeError
from npresnet.functional._checks import IntPair, pair
from npresnet.nn import init
from npresnet.nn._new import new_parameter
from npresnet.nn.module import Module, Parameter
from npresnet.tensor import Tensor

__all__ = ["Conv2d"]


class Conv2d(Module):
    """Convolution with learned kernels: (N, C, H, W) to (N, O, P, Q).

    Parameters
    ----------
    in_channels, out_channels : int
        C and O.
    kernel_size, stride, dilation : int or pair of int
        The window.
    padding : int, pair of int, ``"valid"`` or ``"same"``
        Zeros around the input.
    groups : int
        Blocks that the channels are divided into.
    bias : bool
        Whether each output channel has an added constant.
    padding_mode : str
        ``"zeros"``; no other is built.
    dtype : dtype, optional
        float32 if None.

    Raises
    ------
    RangeError, DtypeError
        If a size is below 1, or ``groups`` doesn't divide both channel counts.
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, groups) < 1:
            raise RangeError(
                f"Conv2d needs at least one channel and group, got in_channels={in_channels}, "
                f"out_channels={out_channels}, groups={groups}"
            )
        if in_channels % groups or out_channels % groups:
            raise RangeError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        if padding_mode != "zeros":
            raise RangeError(f"Conv2d knows padding_mode 'zeros', got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        self.stride = pair(stride, "stride", 1)
        self.padding = padding if isinstance(padding, str) else pair(padding, "padding", 0)
        self.dilation = pair(dilation, "dilation", 1)
        self.groups = groups
        self.weight = new_parameter(
            out_channels, in_channels // groups, *self.kernel_size, dtype=dtype
        )
        self.bias = new_parameter(out_channels, dtype=dtype) if bias else None
        if not bias:
            self.register_parameter("bias", None)
        if device is not None:
            self.to(device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly from ±1 / sqrt(fan_in), torch's default."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) or (C, H, W)."""
        return F.conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        """Return the arguments, those at their defaults left out."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        for name, default in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text + ("" if self.bias is not None else ", bias=False")
