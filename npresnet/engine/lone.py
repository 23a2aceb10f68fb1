"""Operations that no other takes in: a ReLU without batch norm, a gate, a mean pool, a flatten.

Elsewhere they run as eager runs them, with arrays of their own. A backend whose runs can be
recorded has kernels for them that write into the plan's memory, and so aren't in the way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from npresnet.elementary import Add, Concatenate, Multiply, Reshape
from npresnet.engine.graph import Node, Value
from npresnet.engine.kernels import PlanKernels, RecordedKernels, recorded_kernels
from npresnet.engine.operations import is_whole_mean
from npresnet.engine.storage import Storage
from npresnet.functional.activation import LogSoftmax, ReLU, Sigmoid, Softmax
from npresnet.functional.pool import AdaptiveAvgPool2d, AvgPool2d
from npresnet_kernels.contract import Array, Pair

if TYPE_CHECKING:
    from npresnet.engine.steps import Frame
    from npresnet.engine.training_frame import TrainingFrame

__all__ = ["Lone", "lone_operation"]

FLOAT32 = np.dtype(np.float32)


class Lone:
    """One operation with a kernel of its own, forward and backward.

    Attributes
    ----------
    x, y : Value
        What it reads first, and what it makes.
    reads : list of Value
        What :meth:`backward` looks at.
    targets : list of Value
        Those whose gradient it writes to memory, rather than adding to it.
    in_place : bool
        Whether the gradient of x may be written over that of y.
    shares : bool
        Whether both lie in the same place.
    """

    in_place: bool = True

    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        x = node.inputs[0]
        assert x is not None
        self.x, self.y = x, node.output
        self.kernels = kernels
        self.reads: list[Value] = []
        self.targets = [x]
        self.shares = False

    def forward(self, frame: Frame) -> None:
        """Write y."""
        raise NotImplementedError

    def backward(self, frame: TrainingFrame) -> None:
        """Hand x, and what else wants it, its gradient."""
        grad_x = frame.target(self.x, frame.storage.of(self.x))
        self.write_gradient(frame, frame.gradient(self.y), _rows(grad_x))
        frame.settle(self.x, grad_x)

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        """Write the gradient of x."""
        raise NotImplementedError


class _ReLU(Lone):
    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        super().__init__(node, kernels)
        self.reads = [self.y]

    def forward(self, frame: Frame) -> None:
        self.kernels.relu(frame.stored(self.x), frame.stored(self.y))

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        self.kernels.relu_grad(grad_y, frame.stored(self.y), grad_x)


class _Sigmoid(Lone):
    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        super().__init__(node, kernels)
        self.reads = [self.y]

    def forward(self, frame: Frame) -> None:
        self.kernels.sigmoid(frame.stored(self.x), frame.stored(self.y))

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        self.kernels.sigmoid_grad(grad_y, frame.stored(self.y), grad_x)


class _Softmax(Lone):
    """Of rows, or its logarithm."""

    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        super().__init__(node, kernels)
        self.log = node.operation is LogSoftmax
        self.reads = [self.y]

    def forward(self, frame: Frame) -> None:
        self.kernels.softmax_forward(frame.stored(self.x), frame.stored(self.y), self.log)

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        self.kernels.softmax_backward(grad_y, frame.stored(self.y), grad_x, self.log)


class _Sum(Lone):
    """x + y of one shape."""

    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        super().__init__(node, kernels)
        first, second = node.inputs
        assert first is not None
        assert second is not None
        self.x, self.other = (first, second) if first.needs_grad else (second, first)
        self.targets = []
        self.in_place = first is not second  # x + x has twice its gradient

    def forward(self, frame: Frame) -> None:
        self.kernels.add(frame.stored(self.x), frame.stored(self.other), frame.stored(self.y))

    def backward(self, frame: TrainingFrame) -> None:
        grad = frame.grads[self.y]
        frame.collect(self.other, grad)
        if self.shares:
            frame.target(self.x, frame.storage.of(self.x))  # it lies there
        else:
            frame.collect(self.x, grad)


class _Gate(Lone):
    """Maps (N, C, H, W) times features (N, C, 1, 1)."""

    def __init__(self, node: Node, kernels: RecordedKernels, maps: Value, gates: Value) -> None:
        super().__init__(node, kernels)
        self.x, self.gates = maps, gates
        self.reads = self.targets = [maps, gates]

    def forward(self, frame: Frame) -> None:
        gates = frame.stored(self.gates)[:, 0, 0]
        self.kernels.gate(frame.stored(self.x), gates, frame.stored(self.y))

    def backward(self, frame: TrainingFrame) -> None:
        maps = frame.stored(self.x)
        grad_x = frame.target(self.x, frame.storage.of(self.x))
        grad_gates = frame.target(self.gates, frame.storage.of(self.gates))
        self.kernels.gate_grad(
            frame.gradient(self.y),
            maps,
            frame.stored(self.gates)[:, 0, 0],
            _rows(grad_x),
            grad_gates[:, :, 0, 0],
        )
        frame.settle(self.x, grad_x)
        frame.settle(self.gates, grad_gates)


class _Scale(Lone):
    """Times a number that has no gradient: a constant, or a buffer as it is now."""

    def __init__(self, node: Node, kernels: RecordedKernels, x: Value, number: Value) -> None:
        super().__init__(node, kernels)
        self.x, self.number = x, number
        self.targets = [x]

    def forward(self, frame: Frame) -> None:
        self.kernels.scale(frame.stored(self.x), frame.values[self.number], frame.stored(self.y))

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        self.kernels.scale(grad_y, frame.values[self.number], grad_x)


class _Joined(Lone):
    """Maps or rows one behind the other, by their channels."""

    in_place = False

    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        super().__init__(node, kernels)
        self.parts = [v for v in node.inputs if v is not None]
        self.targets = self.parts
        widths = [v.shape[1] for v in self.parts]
        self.places = [(sum(widths[:i]), width) for i, width in enumerate(widths)]

    def forward(self, frame: Frame) -> None:
        y = frame.stored(self.y)
        for part, (first, width) in zip(self.parts, self.places, strict=True):
            self.kernels.move_channels(frame.stored(part), 0, y, first, width)

    def backward(self, frame: TrainingFrame) -> None:
        grad = frame.gradient(self.y)
        for part, (first, width) in zip(self.parts, self.places, strict=True):
            if part.needs_grad:
                own = frame.target(part, frame.storage.of(part))
                self.kernels.move_channels(grad, first, _rows(own), 0, width)
                frame.settle(part, own)


class _Mean(Lone):
    """The mean of windows."""

    in_place = False

    def __init__(self, node: Node, kernels: RecordedKernels) -> None:
        super().__init__(node, kernels)
        rule = node.attributes
        size: Pair = (self.x.shape[2], self.x.shape[3])
        if node.operation is AdaptiveAvgPool2d:
            self.pool = kernels.adaptive_average_pool(size, rule["output_size"])
        else:
            self.pool = kernels.average_pool(size, *(rule[name] for name in _POOL_OPTIONS))

    def forward(self, frame: Frame) -> None:
        self.pool.forward(frame.stored(self.x), frame.stored(self.y))

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        self.pool.backward(grad_y, grad_x)


class _Flatten(Lone):
    """Maps (N, C, H, W) as rows (N, C * H * W), which lie in another order in memory."""

    in_place = False

    def forward(self, frame: Frame) -> None:
        self.kernels.to_channels_first(frame.stored(self.x), frame.values[self.y])

    def write_gradient(self, frame: TrainingFrame, grad_y: Array, grad_x: Array) -> None:
        shape = self.x.shape_at(frame.batch)
        self.kernels.to_channels_last(grad_y.reshape(shape), grad_x)


_POOL_OPTIONS = (
    *("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
)
_ALIKE: dict[type, type[Lone]] = {ReLU: _ReLU, Sigmoid: _Sigmoid}
_POOLS = (AvgPool2d, AdaptiveAvgPool2d)
_SOFTMAXES = (Softmax, LogSoftmax)


def lone_operation(node: Node, kernels: PlanKernels | None, storage: Storage) -> Lone | None:
    """Return what computes a node by a kernel of its own; None where there is none.

    That is a backend that records, for float32 models.
    """
    recorded = recorded_kernels(kernels)
    flowing = [v for v in node.inputs if v is not None and v.source is None]
    values = [*flowing, node.output]
    if recorded is None or not flowing:
        return None
    if any(v.dtype != np.float32 or len(v.shape) not in (2, 4) for v in values):
        return None
    x, y = values[0], node.output
    alike = all(v.shape == y.shape and storage.of(v) == storage.of(y) for v in values)
    if len(flowing) != len(node.inputs):
        number = _number(node)
        return _Scale(node, recorded, x, number) if alike and number is not None else None
    if alike and node.operation in _ALIKE:
        return _ALIKE[node.operation](node, recorded)
    if alike and node.operation is Add:
        return _Sum(node, recorded)
    if node.operation is Multiply:
        for maps, gates in (flowing, flowing[::-1]):
            if _gates(maps, gates, y, storage):
                return _Gate(node, recorded, maps, gates)
    if node.operation is Concatenate and _joins(node, storage):
        return _Joined(node, recorded)
    if node.operation in _POOLS and not is_whole_mean(node) and storage.of(x) == storage.of(y):
        return _Mean(node, recorded)
    if node.operation in _SOFTMAXES and len(y.shape) == 2 and node.attributes["axis"] == 1:
        return _Softmax(node, recorded)
    if node.operation is Reshape and _flattens(x, y, storage):
        return _Flatten(node, recorded)
    return None


def _gates(maps: Value, gates: Value, y: Value, storage: Storage) -> bool:
    """Return whether y is maps (N, C, H, W) times a float32 for each channel, (N, C, 1, 1)."""
    shapes = len(maps.shape) == 4 and maps.shape == y.shape
    each = gates.shape == (*maps.shape[:2], 1, 1) and storage.of(gates) == FLOAT32
    return shapes and each and storage.of(maps) == storage.of(y)


def _number(node: Node) -> Value | None:
    """Return the number that a node multiplies by, if no gradient of it is asked for."""
    for value in node.inputs if node.operation is Multiply else ():
        if value is not None and value.source is not None:
            known = math.prod(value.shape) == 1 and value.dtype == np.float32
            return value if known and not value.needs_grad else None
    return None


def _joins(node: Node, storage: Storage) -> bool:
    """Return whether a node joins different maps, or rows, of one element type by channels."""
    once = len(set(node.inputs)) == len(node.inputs)
    alike = len({storage.of(v) for v in (*node.inputs, node.output) if v is not None}) == 1
    return once and alike and node.attributes["axis"] % len(node.output.shape) == 1


def _flattens(x: Value, y: Value, storage: Storage) -> bool:
    """Return whether y is x flattened, and not just another view of its memory."""
    if not (len(x.shape) == 4 and len(y.shape) == 2 and x.shape[0] == y.shape[0]):
        return False
    moves = x.shape[2:] != (1, 1) or storage.of(x) != storage.of(y)
    return moves and math.prod(x.shape[1:]) == y.shape[1]


def _rows(x: Array) -> Array:
    """(N, C, H, W) as (N, H, W, C); rows as they are."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
