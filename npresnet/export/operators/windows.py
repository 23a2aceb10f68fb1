"""What convolutions and pools of ONNX share: borders, and axes taken two at a time.

Our kernels are two-dimensional. A window over one axis is one over two, the other of size 1; a pool
over three axes is a pool over the last two and then one over the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Ints
from npresnet.functional import pad
from npresnet.tensor import Tensor

__all__ = ["Axis", "axes_of", "bordered", "by_planes", "refuse_auto_pad"]

_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Axis:
    """The windows along one axis.

    Attributes
    ----------
    size : int
        Of the input.
    kernel, stride, dilation : int
        Taps of a window, and the steps between windows and between taps.
    begin, end : int
        The border before and behind.
    count : int
        How many windows there are.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    count: int

    @property
    def reach(self) -> int:
        """From the first to behind the last tap."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def far(self) -> int:
        """The border behind that the last window needs; partial windows reach beyond ``end``."""
        return max((self.count - 1) * self.stride + self.reach - self.size - self.begin, 0)


def refuse_auto_pad(attributes: dict[str, object]) -> str | None:
    """Say why a node's borders can't be made."""
    auto_pad = attributes.get("auto_pad", "NOTSET")
    return None if auto_pad in _AUTO_PADS else f"auto_pad {auto_pad!r} isn't known"


def axes_of(
    call: Call,
    x: Tensor,
    kernel: Ints,
    strides: Ints,
    dilations: Ints,
    pads: Ints,
    auto_pad: str,
    ceil_mode: int = 0,
) -> list[Axis]:
    """Return the windows along each axis of (N, C, D1, ...), as the standard defines them."""
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    if not 1 <= rank <= 3:
        raise OnnxError(f"windows over 1 to 3 axes are known, got input shape {x.shape}")
    if not len(kernel) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise OnnxError(
            f"kernel {kernel}, strides {strides}, dilations {dilations} and pads {pads} don't fit "
            f"input shape {x.shape}"
        )
    if min(kernel + strides + dilations) < 1 or min(pads) < 0:
        raise OnnxError(
            f"kernel {kernel}, strides {strides} and dilations {dilations} must be at least 1, "
            f"pads {pads} not negative"
        )
    axes = []
    for i in range(rank):
        size, k, step, spread = x.shape[2 + i], kernel[i], strides[i], dilations[i]
        reach = spread * (k - 1) + 1
        begin, end = (pads[i], pads[i + rank]) if auto_pad == "NOTSET" else (0, 0)
        if auto_pad.startswith("SAME"):
            total = max((-(size // -step) - 1) * step + reach - size, 0)
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        room = size + begin + end - reach
        count = (-(room // -step) if ceil_mode and auto_pad == "NOTSET" else room // step) + 1
        if ceil_mode and (count - 1) * step >= size + begin:
            count -= 1  # it would start behind the input
        if count < 1:
            raise OnnxError(
                f"kernel {kernel} is larger than the input {x.shape} with its borders {pads}"
            )
        axes.append(Axis(size, k, step, spread, begin, end, count))
    call.sized((*x.shape[:2], *(a.begin + a.size + a.far for a in axes)))
    return axes


def bordered(x: Tensor, widths: list[tuple[int, int]], value: float) -> Tensor:
    """Put (before, behind) around the last axes, if there is anything to put."""
    if not any(map(any, widths)):
        return x
    return pad(x, [n for both in reversed(widths) for n in both], value=value)


def by_planes(
    x: Tensor, axes: list[Axis], compute: Callable[[Tensor, list[Axis]], Tensor]
) -> Tensor:
    """Run ``compute``, which works on (N, C, H, W) and two axes, over one to three."""
    n, c = x.shape[:2]
    one = Axis(1, 1, 1, 1, 0, 0, 1)
    if len(axes) == 1:
        return compute(x.unsqueeze(2), [one, axes[0]]).squeeze(2)
    if len(axes) == 2:
        return compute(x, axes)
    depth, height, width = x.shape[2:]
    planes = compute(x.reshape(n, c * depth, height, width), axes[1:])
    rows = planes.reshape(n, c, depth, -1)
    flat = Axis(rows.shape[3], 1, 1, 1, 0, 0, rows.shape[3])
    return compute(rows, [axes[0], flat]).reshape(n, c, axes[0].count, *planes.shape[2:])
