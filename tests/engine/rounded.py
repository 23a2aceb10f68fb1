"""A training step in float64 that rounds where a plan's kernels do, and nowhere else.

Maps and their gradients are rounded as they are stored, the factors of products as they are
multiplied. What is left of a plan's error beside this is its sums' in float32, and the few
numbers that those push over to the neighbour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npresnet.elementary import Reshape
from npresnet.engine.graph import Graph, Node, Value
from npresnet.engine.operations import ConvEpilogue, NormActivation, is_whole_mean
from npresnet.functional.linear import Linear
from npresnet.functional.pool import MaxPool2d
from npresnet_kernels import reference as kernels
from tests.kernels.gpu.plan_arrays import rounded

Array = np.ndarray
Round = Callable[[Array], Array]


def to_tf32(x: Array) -> Array:
    """The nearest numbers with 10 bits behind the first; ties away from 0, as the device has it."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).view(np.float32).astype(np.float64)


def as_it_is(x: Array) -> Array:
    return x


ROUNDING: dict[str, tuple[Round, Round]] = {
    "fp32": (as_it_is, as_it_is),
    "tf32": (as_it_is, to_tf32),
    "fp16": (lambda x: rounded(x, "float16"), lambda x: rounded(x, "float16")),
    "bf16": (lambda x: rounded(x, "bfloat16"), lambda x: rounded(x, "bfloat16")),
}
"""By precision, what is done to maps when they are stored, and to factors of products."""


class Step:
    """Forward and backward through a training plan's graph.

    Parameters
    ----------
    graph : Graph
        Of convolutions, batch norms, pools and linear layers; its outputs are logits.
    values : dict of Value to array
        Images and parameters, in float64.
    precision : str
        One of `ROUNDING`.
    scale : float
        Of the loss.

    Attributes
    ----------
    grads : dict of Value to array
        Gradients, parameters' among them, not scaled.
    """

    def __init__(
        self,
        graph: Graph,
        values: dict[Value, Array],
        labels: Array,
        precision: str,
        scale: float = 1.0,
    ) -> None:
        self.stored, self.factor = ROUNDING[precision]
        entry = graph.inputs[0]
        self.values = {**values, entry: self.stored(values[entry])}
        self.exact: dict[Value, Array] = {}  # before they were stored
        self.kept: dict[Node, Any] = {}
        self.grads: dict[Value, Array] = {}
        for node in graph.nodes:
            self._forward(node)
        logits = self.values[graph.outputs[0]]
        chances = kernels.softmax(logits, 1)
        here = np.arange(len(labels))
        self.loss = float(-np.log(chances[here, labels]).mean())
        chances[here, labels] -= 1
        self.grads[graph.outputs[0]] = chances * scale / len(labels)
        for node in reversed(graph.nodes):
            self._backward(node)
        self.grads = {value: grad / scale for value, grad in self.grads.items()}

    def _forward(self, node: Node) -> None:
        x, y, rule = node.inputs[0], node.output, node.attributes
        assert x is not None
        values: list[Any] = [self.values.get(v) for v in node.inputs]
        if node.operation is ConvEpilogue:
            made = kernels.conv2d(
                self.factor(values[0]), self.factor(values[1]), values[2], *_window(rule)
            )
            self.exact[y] = made
            self.values[y] = self.stored(made)
        elif node.operation is NormActivation:
            self._normalise(node)
        elif node.operation is MaxPool2d:
            names = ("kernel_size", "stride", "padding", "dilation")
            window = [rule[name] for name in names]
            self.values[y], places = kernels.max_pool2d(values[0], *window, rule["ceil_mode"])
            self.kept[node] = places, window
        elif is_whole_mean(node):
            self.values[y] = values[0].mean((2, 3), keepdims=True)
        elif node.operation is Reshape:
            self.values[y] = values[0].reshape(len(values[0]), -1)
        else:
            assert node.operation is Linear
            self.values[y] = self.factor(values[0]) @ self.factor(values[1]).T + values[2]

    def _normalise(self, node: Node) -> None:
        x, gamma, beta, _, _, residual = node.inputs
        rule, axes = node.attributes, (0, 2, 3)
        seen = self.exact[x]  # moments are of what isn't stored yet
        mean, variance = seen.mean(axes, keepdims=True), seen.var(axes, keepdims=True)
        inverse = 1 / np.sqrt(variance + rule["eps"])
        d = (self.values[x] - mean) * inverse
        y = d * self.values[gamma][:, None, None] + self.values[beta][:, None, None]
        if residual is not None:
            y = y + self.values[residual]
        out = self.stored(np.maximum(y, 0)) if rule["relu"] else self.stored(y)
        passes = (out if residual is not None else y) > 0
        self.values[node.output] = out
        self.kept[node] = d, inverse, passes if rule["relu"] else True

    def _backward(self, node: Node) -> None:
        x, y = node.inputs[0], node.output
        grad = self.grads.pop(y)
        if node.operation is ConvEpilogue:
            self._convolution(node, grad)
        elif node.operation is NormActivation:
            d, inverse, passes = self.kept[node]
            _, gamma, beta, _, _, residual = node.inputs
            grad = np.where(passes, grad, 0)
            axes = (0, 2, 3)
            self.grads[beta] = grad.sum(axes)
            self.grads[gamma] = (grad * d).sum(axes)
            centred = grad - grad.mean(axes, keepdims=True)
            centred -= d * (grad * d).mean(axes, keepdims=True)
            self._collect(x, self.values[gamma][:, None, None] * inverse * centred)
            if residual is not None:
                self._collect(residual, grad)
        elif node.operation is MaxPool2d:
            places, window = self.kept[node]
            shape = self.values[x].shape
            self._collect(x, kernels.max_pool2d_grad(grad, places, shape, *window))
        elif is_whole_mean(node):
            height, width = self.values[x].shape[2:]
            self._collect(x, np.broadcast_to(grad, self.values[x].shape) / (height * width))
        elif node.operation is Reshape:
            self.grads[x] = grad.reshape(self.values[x].shape)
        else:
            _, weight, bias = node.inputs
            self.grads[bias] = grad.sum(0)
            grad = self.factor(grad)
            self.grads[weight] = grad.T @ self.factor(self.values[x])
            self.grads[x] = grad @ self.factor(self.values[weight])

    def _convolution(self, node: Node, grad: Array) -> None:
        x, weight = node.inputs[:2]
        window, seen, matrix = _window(node.attributes), self.values[x], self.values[weight]
        grad, size = self.factor(grad), matrix.shape[2:]
        self.grads[weight] = kernels.conv2d_grad_weight(grad, self.factor(seen), size, *window)
        if x.needs_grad:
            self._collect(
                x, kernels.conv2d_grad_input(grad, self.factor(matrix), seen.shape, *window)
            )

    def _collect(self, value: Value, grad: Array) -> None:
        """Add to the gradient of maps, which is stored."""
        self.grads[value] = self.stored(self.grads.get(value, 0) + grad)


def _window(rule: dict[str, Any]) -> tuple[Any, ...]:
    return rule["stride"], rule["padding"], rule["dilation"], rule["groups"]
