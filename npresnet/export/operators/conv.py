"""Conv."""

from __future__ import annotations

from npresnet import functional as F
from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Ints, Value, operator
from npresnet.export.operators.windows import Axis, axes_of, bordered, refuse_auto_pad
from npresnet.tensor import Tensor

__all__ = ["conv"]


@operator("Conv", parameters={1: "weight", 2: "bias"}, refuse=refuse_auto_pad)
def conv(
    call: Call,
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = (),
    group: int = 1,
    kernel_shape: Ints = (),
    pads: Ints = (),
    strides: Ints = (),
) -> Tensor:
    """Convolution of (N, C, D1, ...) with (O, C / group, k1, ...) over one to three axes."""
    x, w = call.tensor(x), call.tensor(w)
    bias = None if b is None else call.tensor(b)
    kernel = w.shape[2:]
    if w.ndim != x.ndim or (kernel_shape and kernel_shape != kernel):
        raise OnnxError(
            f"weight shape {w.shape} doesn't fit input shape {x.shape} and kernel_shape "
            f"{kernel_shape}"
        )
    axes = axes_of(call, x, kernel, strides, dilations, pads, auto_pad)
    if len(axes) == 1:
        one = Axis(1, 1, 1, 1, 0, 0, 1)
        y = _plane(x.unsqueeze(2), w.unsqueeze(2), bias, [one, axes[0]], group)
        return y.squeeze(2)
    if len(axes) == 2:
        return _plane(x, w, bias, axes, group)
    return _volume(x, w, bias, axes, group)


def _plane(x: Tensor, w: Tensor, bias: Tensor | None, axes: list[Axis], group: int) -> Tensor:
    """Convolve over two axes; borders that differ before and behind are put around first."""
    even = tuple(min(a.begin, a.end) for a in axes)
    x = bordered(x, [(a.begin - e, a.end - e) for a, e in zip(axes, even, strict=True)], 0.0)
    steps, spread = tuple(a.stride for a in axes), tuple(a.dilation for a in axes)
    return F.conv2d(x, w, bias, steps, even, spread, group)


def _volume(x: Tensor, w: Tensor, bias: Tensor | None, axes: list[Axis], group: int) -> Tensor:
    """Convolve over three axes: a sum over the first of convolutions over the other two."""
    depth, *plane = axes
    x = bordered(x, [(depth.begin, depth.end), (0, 0), (0, 0)], 0.0)
    n, c, _, height, width = x.shape
    last = (depth.count - 1) * depth.stride + 1
    total: Tensor | None = None
    for tap in range(depth.kernel):
        start = tap * depth.dilation
        seen = x[:, :, start : start + last : depth.stride].permute(0, 2, 1, 3, 4)
        slices = seen.reshape(n * depth.count, c, height, width)
        y = _plane(slices, w[:, :, tap], bias if tap == 0 else None, plane, group)
        total = y if total is None else total + y
    assert total is not None
    return total.reshape(n, depth.count, *total.shape[1:]).permute(0, 2, 1, 3, 4)
