"""Reductions: ReduceMax, ReduceMean, ReduceSum and what is made of them."""

from __future__ import annotations

from npresnet import functional as F
from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Ints, Value, operator
from npresnet.tensor import Tensor

__all__ = ["reduce_max", "reduce_mean", "reduce_sum"]


def _axes(call: Call, x: Tensor, given: Value | None, attribute: Ints | None, noop: int) -> Ints:
    """Return the axes to reduce, an input in newer versions; all of them if none is named."""
    named = attribute if given is None else call.ints(given, "axes")
    if not named:
        return () if noop else tuple(range(x.ndim))
    axes = tuple(sorted(call.axis(a, x.ndim) for a in named))
    if len(set(axes)) < len(axes):
        raise OnnxError(f"axes {named} name an axis twice")
    return axes


@operator("ReduceMean")
def reduce_mean(
    call: Call,
    x: Value,
    where: Value | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Mean over axes; over the last two of maps it is a pool."""
    x = call.tensor(x)
    named = _axes(call, x, where, axes, noop_with_empty_axes)
    if named == (2, 3) and x.ndim == 4 and x.is_floating_point() and 0 not in x.shape[1:]:
        y = F.adaptive_avg_pool2d(x, 1)
        return y if keepdims else y.reshape(*x.shape[:2])
    return x.mean(named, bool(keepdims))


@operator("ReduceSum")
def reduce_sum(
    call: Call,
    x: Value,
    where: Value | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Sum over axes."""
    x = call.tensor(x)
    named = _axes(call, x, where, axes, noop_with_empty_axes)
    return x.sum(named, bool(keepdims))


@operator("ReduceMax")
def reduce_max(
    call: Call,
    x: Value,
    where: Value | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Maximum over axes."""
    x = call.tensor(x)
    named = _axes(call, x, where, axes, noop_with_empty_axes)
    return x.amax(named, bool(keepdims)) if named else x


@operator("ReduceSumSquare")
def _reduce_sum_square(
    call: Call,
    x: Value,
    where: Value | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    x = call.tensor(x)
    named = _axes(call, x, where, axes, noop_with_empty_axes)
    return (x * x).sum(named, bool(keepdims))
