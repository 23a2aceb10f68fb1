"""How each operation of the engine's graph is written as nodes of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from npresnet import elementary as el
from npresnet.engine.batch import Multiple, grows
from npresnet.engine.graph import Node, Value
from npresnet.engine.operations import Detach
from npresnet.errors import OnnxError
from npresnet.functional.activation import LogSoftmax, ReLU, Sigmoid, Softmax
from npresnet.functional.conv import Conv2d, Pad
from npresnet.functional.linear import Linear
from npresnet.functional.norm import BatchNorm
from npresnet.functional.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from npresnet.tape import Operation

__all__ = ["WRITERS", "Target"]


class Target(Protocol):
    """What a node is written to; see :class:`npresnet.export.write.Writer`."""

    opset: int

    def emit(self, kind: str, inputs: Any, output: str, **attributes: Any) -> None:
        """Append a node."""
        ...

    def name(self, value: Value) -> str:
        """Return a value's name."""
        ...

    def constant(self, array: Any, stem: str, dtype: Any = None) -> str:
        """Write down a constant; return its name."""
        ...

    def between(self) -> str:
        """Return a new name."""
        ...

    def kind(self, dtype: Any) -> int:
        """Return ONNX's number of a dtype."""
        ...


WRITERS: dict[type[Operation], Callable[[Any, Node], None]] = {}


def _writes(*operations: type[Operation]) -> Callable[[Any], Any]:
    def enter(function: Callable[[Any, Node], None]) -> Callable[[Any, Node], None]:
        WRITERS.update(dict.fromkeys(operations, function))
        return function

    return enter


def _names(to: Target, node: Node) -> list[str]:
    """Return the names of a node's inputs, "" for one that is left out."""
    names = ["" if v is None else to.name(v) for v in node.inputs]
    while names and not names[-1]:
        names.pop()
    return names


_SAME = {
    ReLU: "Relu", Sigmoid: "Sigmoid", el.Add: "Add", el.Subtract: "Sub", el.Multiply: "Mul",
    el.Divide: "Div", el.Negate: "Neg", el.Exp: "Exp", el.Log: "Log", el.Abs: "Abs",
    el.MatMul: "MatMul", el.Copy: "Identity", Detach: "Identity",
}  # fmt: skip


@_writes(*_SAME)
def _same(to: Target, node: Node) -> None:
    to.emit(_SAME[node.operation], _names(to, node), to.name(node.output))


def _maps(node: Node) -> tuple[int, int]:
    """Return height and width of what a node reads."""
    value = node.inputs[0]
    assert value is not None
    return value.shape[2], value.shape[3]


@_writes(Conv2d)
def _conv(to: Target, node: Node) -> None:
    rule, weight = node.attributes, node.inputs[1]
    assert weight is not None
    to.emit(
        "Conv",
        _names(to, node),
        to.name(node.output),
        kernel_shape=weight.shape[2:],
        strides=rule["stride"],
        pads=rule["padding"] * 2,
        dilations=rule["dilation"],
        group=rule["groups"],
    )


@_writes(BatchNorm)
def _batch_norm(to: Target, node: Node) -> None:
    if node.attributes["training"]:
        raise OnnxError("batch norm by the batch's own statistics is training")
    x, weight, bias, mean, var = node.inputs
    assert x is not None
    channels = x.shape[1]
    names = [
        to.constant(np.full(channels, fill, x.dtype), stem) if value is None else to.name(value)
        for value, fill, stem in ((weight, 1, "ones"), (bias, 0, "zeros"))
    ]
    rest = [to.name(v) for v in (mean, var) if v is not None]
    inputs = [to.name(x), *names, *rest]
    to.emit("BatchNormalization", inputs, to.name(node.output), epsilon=node.attributes["eps"])


@_writes(MaxPool2d)
def _max_pool(to: Target, node: Node) -> None:
    rule = node.attributes
    to.emit(
        "MaxPool",
        _names(to, node),
        to.name(node.output),
        kernel_shape=rule["kernel_size"],
        strides=rule["stride"],
        pads=rule["padding"] * 2,
        dilations=rule["dilation"],
        ceil_mode=int(rule["ceil_mode"]),
    )


@_writes(AvgPool2d)
def _avg_pool(to: Target, node: Node) -> None:
    rule = node.attributes
    divisor = rule["divisor_override"]
    if divisor is not None and rule["ceil_mode"]:
        raise OnnxError("divisor_override with ceil_mode has no counterpart")
    y = to.name(node.output) if divisor is None else to.between()
    to.emit(
        "AveragePool",
        _names(to, node),
        y,
        kernel_shape=rule["kernel_size"],
        strides=rule["stride"],
        pads=rule["padding"] * 2,
        ceil_mode=int(rule["ceil_mode"]),
        count_include_pad=int(rule["count_include_pad"] or divisor is not None),
    )
    if divisor is not None:
        scale = math.prod(rule["kernel_size"]) / divisor
        factor = to.constant(scale, "scale", node.output.dtype)
        to.emit("Mul", [y, factor], to.name(node.output))


@_writes(AdaptiveAvgPool2d)
def _adaptive_avg_pool(to: Target, node: Node) -> None:
    wanted, sizes = node.attributes["output_size"], _maps(node)
    if wanted == (1, 1):
        to.emit("GlobalAveragePool", _names(to, node), to.name(node.output))
        return
    if any(n % w for n, w in zip(sizes, wanted, strict=True)):
        raise OnnxError(f"maps of {sizes} can't be parted evenly into {wanted}")
    steps = tuple(n // w for n, w in zip(sizes, wanted, strict=True))
    to.emit(
        "AveragePool", _names(to, node), to.name(node.output), kernel_shape=steps, strides=steps
    )


@_writes(Linear)
def _linear(to: Target, node: Node) -> None:
    to.emit("Gemm", _names(to, node), to.name(node.output), transB=1)


@_writes(Softmax, LogSoftmax)
def _softmax(to: Target, node: Node) -> None:
    kind = "Softmax" if node.operation is Softmax else "LogSoftmax"
    to.emit(kind, _names(to, node), to.name(node.output), axis=node.attributes["axis"])


@_writes(el.Power)
def _power(to: Target, node: Node) -> None:
    x, exponent = _names(to, node)[0], node.attributes["exponent"]
    if exponent == 0.5:
        to.emit("Sqrt", [x], to.name(node.output))
        return
    number = to.constant(exponent, "exponent", node.output.dtype)
    to.emit("Pow", [x, number], to.name(node.output))


@_writes(el.Clamp)
def _clamp(to: Target, node: Node) -> None:
    inputs = _names(to, node)
    for bound in ("low", "high"):
        number = node.attributes[bound]
        inputs.append("" if number is None else to.constant(number, bound, node.output.dtype))
    to.emit("Clip", inputs if inputs[-1] else inputs[:-1], to.name(node.output))


@_writes(el.Sum)
def _sum(to: Target, node: Node) -> None:
    x, rule = node.inputs[0], node.attributes
    assert x is not None
    if not rule["axes"]:
        to.emit("Identity", [to.name(x)], to.name(node.output))
        return
    _reduce(to, node, "ReduceMean" if "divisor" in rule else "ReduceSum")


@_writes(el.Amax)
def _amax(to: Target, node: Node) -> None:
    _reduce(to, node, "ReduceMax")


def _reduce(to: Target, node: Node, kind: str) -> None:
    """Reduce over axes, which are an attribute before version 18 (ReduceSum: 13)."""
    axes, keep = node.attributes["axes"], int(node.attributes["keepdims"])
    inputs = _names(to, node)
    if to.opset >= 18 or kind == "ReduceSum":
        inputs.append(to.constant(axes, "axes", np.int64))
        to.emit(kind, inputs, to.name(node.output), keepdims=keep)
    else:
        to.emit(kind, inputs, to.name(node.output), keepdims=keep, axes=axes)


@_writes(el.Reshape)
def _reshape(to: Target, node: Node) -> None:
    x, shape = node.inputs[0], node.attributes["shape"]
    assert x is not None
    if len(shape) == 2 and len(x.shape) > 2 and shape[0] == x.shape[0]:
        to.emit("Flatten", [to.name(x)], to.name(node.output), axis=1)
        return
    sizes: list[int] = []
    for i, size in enumerate(shape):
        if not isinstance(size, Multiple):
            sizes.append(size)
        elif i < len(x.shape) and x.shape[i] == size:
            sizes.append(0)  # keeps the size
        else:
            sizes.append(-1)
    if sizes.count(-1) > 1 or (0 in shape and 0 in sizes):
        raise OnnxError(f"a reshape to {shape} can't be said without the batch")
    to.emit("Reshape", [to.name(x), to.constant(sizes, "shape", np.int64)], to.name(node.output))


@_writes(el.Permute)
def _permute(to: Target, node: Node) -> None:
    to.emit("Transpose", _names(to, node), to.name(node.output), perm=node.attributes["axes"])


@_writes(el.Expand)
def _expand(to: Target, node: Node) -> None:
    x, shape = node.inputs[0], node.attributes["shape"]
    assert x is not None
    ahead = len(shape) - len(x.shape)
    sizes = []
    for i, size in enumerate(shape):
        if isinstance(size, Multiple):
            if i < ahead or x.shape[i - ahead] != size:
                raise OnnxError(f"an expansion to {shape} can't be said without the batch")
            size = 1  # broadcasting keeps what is there
        sizes.append(size)
    to.emit("Expand", [to.name(x), to.constant(sizes, "shape", np.int64)], to.name(node.output))


@_writes(el.Concatenate)
def _concatenate(to: Target, node: Node) -> None:
    to.emit("Concat", _names(to, node), to.name(node.output), axis=node.attributes["axis"])


@_writes(el.Cast)
def _cast(to: Target, node: Node) -> None:
    to.emit("Cast", _names(to, node), to.name(node.output), to=to.kind(node.output.dtype))


@_writes(Pad)
def _pad(to: Target, node: Node) -> None:
    rule = node.attributes
    widths = [before for before, _ in rule["widths"]] + [behind for _, behind in rule["widths"]]
    filler = to.constant(rule["value"], "filler", node.output.dtype)
    pads = to.constant(widths, "pads", np.int64)
    to.emit("Pad", [*_names(to, node), pads, filler], to.name(node.output))


@_writes(el.Index)
def _index(to: Target, node: Node) -> None:
    """Slices and whole numbers: Slice, then the picked axes leave."""
    x, index = node.inputs[0], node.attributes["index"]
    assert x is not None
    parts = list(index) if isinstance(index, tuple) else [index]
    if grows({"index": index}) or not all(
        p is Ellipsis or isinstance(p, int | np.integer | slice) for p in parts
    ):
        raise OnnxError("picking by arrays, None or parts of the batch isn't known to the writer")
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(x.shape) - len(parts) + 1)
    bounds: list[list[int]] = [[], [], [], []]  # starts, ends, axes, steps
    gone = []
    for axis, part in enumerate(parts):
        if isinstance(part, slice):
            if part == slice(None):
                continue
            if isinstance(x.shape[axis], Multiple):
                raise OnnxError("picking parts of the batch isn't known to the writer")
            start, end, step = part.indices(x.shape[axis])
            end = end if end >= 0 else -(2**31)  # before the front, for negative steps
        else:
            start, step = int(part), 1
            end = start + 1 if start != -1 else 2**31
            gone.append(axis)
        for numbers, number in zip(bounds, (start, end, axis, step), strict=True):
            numbers.append(number)
    name = to.name(x)
    if bounds[0]:
        cut = to.between() if gone else to.name(node.output)
        stems = ("starts", "ends", "axes", "steps")
        inputs = [to.constant(b, s, np.int64) for b, s in zip(bounds, stems, strict=True)]
        to.emit("Slice", [name, *inputs], cut)
        name = cut
    if gone:
        to.emit("Squeeze", [name, to.constant(gone, "axes", np.int64)], to.name(node.output))
    elif not bounds[0]:
        to.emit("Identity", [name], to.name(node.output))
