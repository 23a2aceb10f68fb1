"""Shapes: what rearranges elements, and what works out sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npresnet import functional as F
from npresnet.creation import cat
from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Floats, Ints, Value, operator
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["constant", "expand", "flatten", "gather", "pad", "reshape", "slice_", "transpose"]


@operator("Constant")
def constant(
    call: Call,
    *,
    value: Array | None = None,
    value_float: float | None = None,
    value_floats: Floats | None = None,
    value_int: int | None = None,
    value_ints: Ints | None = None,
) -> Any:
    """The one attribute that is given."""
    if value is not None:
        return value
    for number, kind in (
        (value_float, np.float32),
        (value_floats, np.float32),
        (value_int, np.int64),
        (value_ints, np.int64),
    ):
        if number is not None:
            return np.array(number, kind)
    raise OnnxError("it has no value")


@operator("ConstantOfShape")
def _constant_of_shape(call: Call, shape: Value, *, value: Array | None = None) -> Any:
    sizes = call.sized(call.ints(shape, "shape"))
    filler = np.zeros(1, np.float32) if value is None else value
    if filler.size != 1:
        raise OnnxError(f"its value must be one number, got shape {filler.shape}")
    return np.full(sizes, filler.reshape(()), filler.dtype)


@operator("Shape")
def _shape(call: Call, x: Value, *, start: int = 0, end: int | None = None) -> Any:
    return np.array(x.shape[start:end], np.int64)


@operator("Size")
def _size(call: Call, x: Value) -> Any:
    return np.array(math.prod(x.shape), np.int64)


@operator("Range")
def _range(call: Call, start: Value, limit: Value, delta: Value) -> Any:
    first, last, step = (call.known(v) for v in (start, limit, delta))
    if first.size != 1 or last.size != 1 or step.size != 1 or not step.any():
        raise OnnxError("its bounds must be three numbers, the last not 0")
    count = np.ceil((last - first) / step).reshape(())
    call.sized((int(np.nan_to_num(np.maximum(count, 0), nan=0, posinf=2.0**62)),))
    return np.arange(first.item(), last.item(), step.item()).astype(first.dtype)


@operator("Reshape")
def reshape(call: Call, x: Value, shape: Value, *, allowzero: int = 0) -> Tensor:
    """The same elements under another shape: 0 keeps a size, one -1 is worked out.

    A file exported for one batch size names it in its shapes; another batch goes the same way.
    """
    x = call.tensor(x)
    wanted = call.ints(shape, "shape")
    if not allowzero:
        if any(n == 0 and i >= x.ndim for i, n in enumerate(wanted)):
            raise OnnxError(f"shape {wanted} keeps a size that input shape {x.shape} doesn't have")
        wanted = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(wanted))
    rest = wanted[1:]
    misses = wanted and -1 not in wanted and math.prod(wanted) != x.numel()
    if misses and x.ndim and x.shape[0] * math.prod(rest) == x.numel():
        wanted = (x.shape[0], *rest)
    return x.reshape(wanted)


@operator("Flatten")
def flatten(call: Call, x: Value, *, axis: int = 1) -> Tensor:
    """A matrix: the axes before ``axis`` make its rows, the others its columns."""
    x = call.tensor(x)
    first = x.ndim if axis == x.ndim else call.axis(axis, x.ndim)
    if first == 1 and x.ndim > 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:]))


@operator("Transpose")
def transpose(call: Call, x: Value, *, perm: Ints | None = None) -> Tensor:
    """Axes in another order, reversed if none is given."""
    x = call.tensor(x)
    return x.permute(tuple(reversed(range(x.ndim))) if perm is None else perm)


@operator("Squeeze")
def _squeeze(
    call: Call, x: Value, where: Value | None = None, *, axes: Ints | None = None
) -> Tensor:
    x = call.tensor(x)
    given = axes if where is None else call.ints(where, "axes")
    if given is None:
        gone = {i for i, n in enumerate(x.shape) if n == 1}
    else:
        gone = {call.axis(a, x.ndim) for a in given}
    if any(x.shape[i] != 1 for i in gone):
        raise OnnxError(f"axes {given} of shape {x.shape} aren't all of size 1")
    return x.reshape(tuple(n for i, n in enumerate(x.shape) if i not in gone))


@operator("Unsqueeze")
def _unsqueeze(
    call: Call, x: Value, where: Value | None = None, *, axes: Ints | None = None
) -> Tensor:
    x = call.tensor(x)
    given = axes if where is None else call.ints(where, "axes")
    if given is None or x.ndim + len(given) > 32:
        raise OnnxError(f"it can't put in the axes {given}")
    ndim = x.ndim + len(given)
    new = {call.axis(a, ndim) for a in given}
    if len(new) < len(given):
        raise OnnxError(f"axes {given} name an axis twice")
    sizes = iter(x.shape)
    return x.reshape(tuple(1 if i in new else next(sizes) for i in range(ndim)))


@operator("Concat")
def _concat(call: Call, *inputs: Value, axis: int) -> Tensor:
    parts = [call.tensor(v) for v in inputs]
    first = call.axis(axis, parts[0].ndim)
    if any(part.ndim != parts[0].ndim for part in parts):
        raise OnnxError(f"inputs of shapes {[part.shape for part in parts[:8]]}")
    call.sized((*parts[0].shape, sum(part.shape[first] for part in parts)))
    return cat(parts, first)


@operator("Expand")
def expand(call: Call, x: Value, shape: Value) -> Tensor:
    """Broadcast x and a shape together."""
    x = call.tensor(x)
    wanted = call.sized(call.ints(shape, "shape"))
    return x.expand(call.broadcast(x.shape, wanted))


def _check_indices(picked: Array, size: int) -> None:
    if picked.dtype.kind not in "iu" or not bool(((picked >= -size) & (picked < size)).all()):
        raise OnnxError(f"its indices must be integers from {-size} to {size - 1}")


@operator("Gather")
def gather(call: Call, x: Value, indices: Value, *, axis: int = 0) -> Tensor:
    """Pick along an axis, by known indices."""
    x = call.tensor(x)
    first = call.axis(axis, x.ndim)
    picked = call.known(indices)
    size = x.shape[first]
    _check_indices(picked, size)
    call.sized((*x.shape[:first], *picked.shape, *x.shape[first + 1 :]))
    index = int(picked) if picked.ndim == 0 else call.backend.asarray(picked)
    return x[(*(slice(None),) * first, index)]


@operator("GatherElements")
def gather_elements(call: Call, x: Value, indices: Value, *, axis: int = 0) -> Tensor:
    """Pick one element along an axis for each of the known indices: torch's gather."""
    x = call.tensor(x)
    first = call.axis(axis, x.ndim)
    picked = call.known(indices)
    size = x.shape[first]
    if picked.ndim != x.ndim or any(
        n > m for i, (n, m) in enumerate(zip(picked.shape, x.shape, strict=True)) if i != first
    ):
        raise OnnxError(f"indices of shape {picked.shape} don't fit input shape {x.shape}")
    _check_indices(picked, size)
    index: list[Any] = list(np.ogrid[tuple(slice(n) for n in picked.shape)])
    index[first] = picked
    return x[tuple(call.backend.asarray(part) for part in index)]


@operator("Slice")
def slice_(
    call: Call,
    x: Value,
    begins: Value | None = None,
    stops: Value | None = None,
    where: Value | None = None,
    strides: Value | None = None,
    *,
    axes: Ints | None = None,
    ends: Ints | None = None,
    starts: Ints | None = None,
) -> Tensor:
    """Cut out a range along some axes: attributes before version 10, inputs since."""
    x = call.tensor(x)
    first = starts if begins is None else call.ints(begins, "starts")
    last = ends if stops is None else call.ints(stops, "ends")
    if first is None or last is None:
        raise OnnxError("it has no starts or ends")
    named = axes if where is None else call.ints(where, "axes")
    named = tuple(range(len(first))) if named is None else named
    steps = (1,) * len(first) if strides is None else call.ints(strides, "steps")
    if not len(first) == len(last) == len(named) == len(steps) or 0 in steps:
        raise OnnxError(f"starts {first}, ends {last}, axes {named} and steps {steps} don't fit")
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(first, last, named, steps, strict=True):
        # a negative end before the front means the front itself, which Python writes as None
        size = x.shape[call.axis(axis, x.ndim)]
        whole = step < 0 and end < -size
        index[axis] = slice(start, None if whole else end, step)
    return x[tuple(index)]


def _refuse_pad(attributes: dict[str, Any]) -> str | None:
    mode = attributes.get("mode", "constant")
    return None if mode == "constant" else f"mode {mode!r}: only constant borders are built"


@operator("Pad", refuse=_refuse_pad)
def pad(
    call: Call,
    x: Value,
    widths: Value | None = None,
    filler: Value | None = None,
    where: Value | None = None,
    *,
    mode: str = "constant",
    pads: Ints | None = None,
    value: float = 0.0,
) -> Tensor:
    """A border of one value: attributes before version 11, inputs since."""
    x = call.tensor(x)
    given = pads if widths is None else call.ints(widths, "pads")
    number = value if filler is None else call.number(filler, "value")
    axes = (
        range(x.ndim) if where is None else [call.axis(a, x.ndim) for a in call.ints(where, "axes")]
    )
    if given is None or len(given) != 2 * len(axes):
        raise OnnxError(f"pads {given} don't fit the axes {tuple(axes)}")
    both = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        both[axis] = (given[i], given[i + len(axes)])
    call.sized(tuple(n + a + b for n, (a, b) in zip(x.shape, both, strict=True)))
    return F.pad(x, [n for pair in reversed(both) for n in pair], value=number)
