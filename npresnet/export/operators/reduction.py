"""Reductions: ReduceMax, ReduceMean, ReduceSum and what is made of them."""

from __future__ import annotations

from collections.abc import Callable

from npresnet import functional as F
from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Ints, Value, operator
from npresnet.tensor import Tensor


def _axes(call: Call, x: Tensor, given: Value | None, attribute: Ints | None, noop: int) -> Ints:
    """Return the axes to reduce, an input in newer versions; all of them if none is named."""
    named = attribute if given is None else call.ints(given, "axes")
    if not named:
        return () if noop else tuple(range(x.ndim))
    axes = tuple(sorted(call.axis(a, x.ndim) for a in named))
    if len(set(axes)) < len(axes):
        raise OnnxError(f"axes {named} name an axis twice")
    return axes


def _reduction(name: str, reduce: Callable[[Tensor, Ints, bool], Tensor]) -> None:
    """Register an operator: `reduce` takes a tensor, axes and whether to keep them."""

    @operator(name)
    def over_axes(
        call: Call,
        x: Value,
        where: Value | None = None,
        *,
        axes: Ints | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        x = call.tensor(x)
        return reduce(x, _axes(call, x, where, axes, noop_with_empty_axes), bool(keepdims))


def _mean(x: Tensor, axes: Ints, keepdims: bool) -> Tensor:
    """Mean over axes; over the last two of maps it is a pool."""
    if axes == (2, 3) and x.ndim == 4 and x.is_floating_point() and 0 not in x.shape[1:]:
        y = F.adaptive_avg_pool2d(x, 1)
        return y if keepdims else y.reshape(*x.shape[:2])
    return x.mean(axes, keepdims)


_reduction("ReduceMean", _mean)
_reduction("ReduceSum", Tensor.sum)
_reduction("ReduceMax", lambda x, axes, keep: x.amax(axes, keep) if axes else x)
_reduction("ReduceSumSquare", lambda x, axes, keep: (x * x).sum(axes, keep))
