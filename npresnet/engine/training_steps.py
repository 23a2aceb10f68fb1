"""Steps of a training plan: a node's forward and backward, bound to the kernels that run them.

The fast steps read and write memory that the plan gives them; any other operation is a
:class:`TrainingStep` and runs its own forward and backward, as on the tape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from npresnet.backend import Backend
from npresnet.engine.batch import resolve
from npresnet.engine.graph import Node, Value
from npresnet.engine.kernels import PlanKernels
from npresnet.engine.operations import ConvEpilogue, NormActivation
from npresnet.engine.steps import is_plain_max, is_whole_mean, nhwc
from npresnet.errors import ShapeError
from npresnet.functional.linear import Linear
from npresnet.tape import Context
from npresnet_kernels.contract import Array

__all__ = ["TrainingFrame", "TrainingStep", "training_step"]


class TrainingFrame:
    """What one training step works on.

    Attributes
    ----------
    batch : int
        Images in this step.
    scratch : array
        Working memory of the kernel that runs.
    values : dict of Value to array
        Parameters and activations; maps are logical (N, C, H, W).
    grads : dict of Value to array
        Gradients so far.
    memory : dict of Value to array
        Where gradients that fast steps write are to lie; those of parameters included.
    kept : dict
        By step, what its forward leaves for its backward.
    """

    __slots__ = ("batch", "grads", "kept", "memory", "scratch", "values")

    def __init__(
        self, batch: int, scratch: Array, values: dict[Value, Array], memory: dict[Value, Array]
    ) -> None:
        self.batch = batch
        self.scratch = scratch
        self.values = values
        self.memory = memory
        self.grads: dict[Value, Array] = {}
        self.kept: dict[Any, Any] = {}

    def collect(self, value: Value | None, grad: Array | None) -> None:
        """Add a gradient to what a value has collected; it isn't changed later."""
        if value is None or grad is None or not value.needs_grad:
            return
        memory = self.memory.get(value)
        if memory is None:
            self.grads[value] = self.grads[value] + grad if value in self.grads else grad
        elif value in self.grads:
            memory += grad
        else:
            memory[...] = grad
            self.grads[value] = memory

    def target(self, value: Value) -> Array:
        """Return memory to write a gradient to: the value's own if it has none yet, else other."""
        if value.needs_grad and value not in self.grads:
            self.grads[value] = self.memory[value]
            return self.memory[value]
        shape = value.shape_at(self.batch)
        if len(shape) != 4:
            return np.empty(shape, value.dtype)
        images, channels, height, width = shape
        return np.empty((images, height, width, channels), value.dtype).transpose(0, 3, 1, 2)

    def settle(self, value: Value, written: Array) -> None:
        """Add what was written to memory from :meth:`target`, where that wasn't the value's own."""
        if written is not self.memory.get(value):
            self.collect(value, written)


class TrainingStep:
    """A node run as the tape runs it.

    Attributes
    ----------
    node : Node
        What it computes.
    buffered : bool
        Whether it writes its output into memory given by the plan.
    needs_grad : tuple of bool
        For each input, whether training wants its gradient.
    """

    buffered: ClassVar[bool] = False

    def __init__(self, node: Node, backend: Backend) -> None:
        self.node = node
        self.backend = backend
        self.needs_grad = tuple(v is not None and v.needs_grad for v in node.inputs)

    @property
    def backward_reads(self) -> list[Value]:
        """Values that :meth:`backward` looks at."""
        return [v for v in (*self.node.inputs, self.node.output) if v is not None]

    @property
    def in_place(self) -> Value | None:
        """An input whose gradient :meth:`backward` may write over its output's."""
        return None

    @property
    def work_floats(self) -> tuple[int, int]:
        """Float32 elements that forward and backward each want for themselves, as ``work``."""
        return 0, 0

    def scratch_floats(self, threads: int) -> int:
        """Return the float32 of working memory that it needs."""
        return 0

    def forward(self, frame: TrainingFrame, work: Array) -> None:
        """Compute the output."""
        node = self.node
        context = Context(self.backend, self.needs_grad)
        arrays = [None if v is None else frame.values[v] for v in node.inputs]
        attributes = resolve(node.attributes, frame.batch)
        result = node.operation.forward(context, *arrays, **attributes)
        frame.values[node.output] = self.backend.xp.asarray(result)
        frame.kept[self] = context

    def backward(self, frame: TrainingFrame, work: Array) -> None:
        """Hand the inputs their gradients."""
        grad = frame.grads[self.node.output]
        grads = self.node.operation.backward(frame.kept.pop(self), grad)
        for value, part in zip(self.node.inputs, grads, strict=True):
            frame.collect(value, part)


class _FastStep(TrainingStep):
    """What steps with plan kernels share."""

    buffered = True

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend)
        self.kernels = kernels
        x = node.inputs[0]
        assert x is not None
        self.x, self.y = x, node.output

    @property
    def backward_reads(self) -> list[Value]:
        return []

    def vector(self, frame: TrainingFrame, position: int, default: float) -> Array:
        """Return an input of one number a channel, or a constant if there is none."""
        value = self.node.inputs[position]
        if value is not None:
            return np.ascontiguousarray(frame.values[value])
        return np.full(self.y.shape[1], default, self.y.dtype)

    def spread(self, frame: TrainingFrame, write: Callable[[Array, Array], None]) -> None:
        """Call ``write(grad_y, grad_x)`` if training wants the gradient of x."""
        if self.x.needs_grad:
            grad_x = frame.target(self.x)
            write(nhwc(frame.grads[self.y]), nhwc(grad_x))
            frame.settle(self.x, grad_x)


class _Convolution(_FastStep):
    """Convolution; sums up its output for the batch norm behind it."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        weight = node.inputs[1]
        assert weight is not None
        assert weight.source is not None
        self.weight, self.bias = weight, node.inputs[2]
        rule = node.attributes
        self.convolution = kernels.convolution(
            self.x.shape[1:], weight.shape, rule["stride"], rule["padding"], rule["algorithm"]
        )
        values = np.zeros(weight.shape, np.float32)  # packed once, to learn how large that is
        pack, pack_grad = self.convolution.pack, self.convolution.pack_grad_input
        self._work = (pack(values).size, pack_grad(values).size if self.x.needs_grad else 0)

    @property
    def backward_reads(self) -> list[Value]:
        return [self.x] if self.weight.needs_grad else []

    @property
    def work_floats(self) -> tuple[int, int]:
        return self._work

    def scratch_floats(self, threads: int) -> int:
        return self.convolution.scratch_floats(threads, True)

    def forward(self, frame: TrainingFrame, work: Array) -> None:
        weight = np.ascontiguousarray(frame.values[self.weight])
        packed = self.convolution.pack(weight, work)
        moments = None
        if self.node.attributes["statistics"]:
            moments = frame.kept[self.y] = np.empty((2, weight.shape[0]))
        self.convolution.forward(
            nhwc(frame.values[self.x]),
            packed,
            nhwc(frame.values[self.y]),
            frame.scratch,
            None if self.bias is None else self.vector(frame, 2, 0.0),
            moments=moments,
        )

    def backward(self, frame: TrainingFrame, work: Array) -> None:
        grad = frame.grads[self.y]
        if self.weight.needs_grad:
            target = frame.target(self.weight)
            if not target.flags.c_contiguous:  # shared with a layer that came first
                target = np.empty(self.weight.shape, np.float32)
            maps = nhwc(frame.values[self.x])
            self.convolution.grad_weight(maps, nhwc(grad), target, frame.scratch)
            frame.settle(self.weight, target)
        if self.bias is not None and self.bias.needs_grad:
            frame.collect(self.bias, self.backend.kernels.channel_sum(grad))
        if self.x.needs_grad:
            weight = np.ascontiguousarray(frame.values[self.weight])
            packed = self.convolution.pack_grad_input(weight, work)
            first = self.x not in frame.grads
            grad_x = frame.memory[self.x]
            self.convolution.grad_input(nhwc(grad), packed, nhwc(grad_x), frame.scratch, not first)
            frame.grads[self.x] = grad_x


class _Norm(_FastStep):
    """Batch norm in training + residual + ReLU."""

    @property
    def backward_reads(self) -> list[Value]:
        # without a residual, x tells where the ReLU passed
        reads_y = self.node.attributes["relu"] and self.node.inputs[5] is not None
        return [self.x, self.y] if reads_y else [self.x]

    @property
    def in_place(self) -> Value | None:
        residual = self.node.inputs[5]
        return self.x if residual is None or not residual.needs_grad else residual

    def forward(self, frame: TrainingFrame, work: Array) -> None:
        rule = self.node.attributes
        x = nhwc(frame.values[self.x])
        count = x.size // x.shape[3]
        if count < 2:
            raise ShapeError(
                "batch_norm in training needs more than one value a channel, got input shape "
                f"{self.x.shape_at(frame.batch)}: use a larger batch, or eval()"
            )
        moments = frame.kept.pop(self.x, None)
        if moments is None:
            moments = self.kernels.moments(x)
        mean, var = moments
        for value, new in (
            (self.node.inputs[3], mean),
            (self.node.inputs[4], var * (count / (count - 1))),
        ):
            if value is not None:
                running = frame.values[value]
                running += rule["momentum"] * (new - running)
        residual = self.node.inputs[5]
        self.kernels.batch_norm_forward(
            x,
            mean,
            var,
            self.vector(frame, 1, 1.0),
            self.vector(frame, 2, 0.0),
            nhwc(frame.values[self.y]),
            None if residual is None else nhwc(frame.values[residual]),
            rule["relu"],
            rule["eps"],
        )
        frame.kept[self] = moments

    def backward(self, frame: TrainingFrame, work: Array) -> None:
        rule = self.node.attributes
        mean, var = frame.kept.pop(self)
        residual = self.node.inputs[5]
        grad_x = frame.target(self.x)
        grad_residual = None
        if residual is not None and residual.needs_grad:
            grad_residual = frame.target(residual)
        grad_gamma, grad_beta = self.kernels.batch_norm_backward(
            nhwc(frame.grads[self.y]),
            nhwc(frame.values[self.x]),
            mean,
            var,
            self.vector(frame, 1, 1.0),
            self.vector(frame, 2, 0.0),
            nhwc(grad_x),
            rule["relu"],
            nhwc(frame.values[self.y]) if self.y in self.backward_reads else None,
            None if grad_residual is None else nhwc(grad_residual),
            rule["eps"],
        )
        frame.settle(self.x, grad_x)
        if residual is not None and grad_residual is not None:
            frame.settle(residual, grad_residual)
        frame.collect(self.node.inputs[1], grad_gamma)
        frame.collect(self.node.inputs[2], grad_beta)


class _Linear(_FastStep):
    """A linear layer as a 1x1 convolution of 1x1 maps: BLAS's threads would wait for the cores."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        weight = node.inputs[1]
        assert weight is not None
        self.weight, self.bias = weight, node.inputs[2]
        outputs, inputs = weight.shape
        self.convolution = kernels.convolution(
            (inputs, 1, 1), (outputs, inputs, 1, 1), (1, 1), (0, 0), "direct"
        )

    @property
    def backward_reads(self) -> list[Value]:
        return [self.x] if self.weight.needs_grad else []

    def scratch_floats(self, threads: int) -> int:
        return self.convolution.scratch_floats(threads, True)

    def rows(self, x: Array) -> Array:
        """(N, I) to contiguous (N, 1, 1, I)."""
        return np.ascontiguousarray(x)[:, None, None]

    def filters(self, frame: TrainingFrame) -> Array:
        """Return the weights as (O, I, 1, 1)."""
        return np.ascontiguousarray(frame.values[self.weight])[:, :, None, None]

    def forward(self, frame: TrainingFrame, work: Array) -> None:
        self.convolution.forward(
            self.rows(frame.values[self.x]),
            self.convolution.pack(self.filters(frame)),
            frame.values[self.y][:, None, None],
            frame.scratch,
            None if self.bias is None else self.vector(frame, 2, 0.0),
        )

    def backward(self, frame: TrainingFrame, work: Array) -> None:
        grad = self.rows(frame.grads[self.y])
        if self.weight.needs_grad:
            made = np.empty((*self.weight.shape, 1, 1), np.float32)
            rows = self.rows(frame.values[self.x])
            self.convolution.grad_weight(rows, grad, made, frame.scratch)
            frame.collect(self.weight, made[:, :, 0, 0])
        if self.bias is not None and self.bias.needs_grad:
            frame.collect(self.bias, self.backend.kernels.channel_sum(grad[:, 0, 0]))
        if self.x.needs_grad:
            packed = self.convolution.pack_grad_input(self.filters(frame))
            grad_x = np.empty((len(grad), 1, 1, self.x.shape[1]), np.float32)
            self.convolution.grad_input(grad, packed, grad_x, frame.scratch)
            frame.collect(self.x, grad_x[:, 0, 0])


class _MaxPool(_FastStep):
    """Maximum over windows; keeps a byte an output, the winner's number."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        rule = node.attributes
        self.window = (rule["kernel_size"][0], rule["stride"][0], rule["padding"][0])

    def forward(self, frame: TrainingFrame, work: Array) -> None:
        y = nhwc(frame.values[self.y])
        winners = np.empty(y.shape, np.uint8)
        self.kernels.max_pool_forward(nhwc(frame.values[self.x]), y, winners, *self.window)
        frame.kept[self] = winners

    def backward(self, frame: TrainingFrame, work: Array) -> None:
        winners = frame.kept.pop(self)

        def write(grad_y: Array, grad_x: Array) -> None:
            self.kernels.max_pool_backward(grad_y, winners, grad_x, *self.window)

        self.spread(frame, write)


class _Mean(_FastStep):
    """Mean over each whole map."""

    def forward(self, frame: TrainingFrame, work: Array) -> None:
        y = nhwc(frame.values[self.y])
        self.kernels.average_pool_forward(nhwc(frame.values[self.x]), y[:, 0, 0])

    def backward(self, frame: TrainingFrame, work: Array) -> None:
        def write(grad_y: Array, grad_x: Array) -> None:
            self.kernels.average_pool_backward(grad_y[:, 0, 0], grad_x)

        self.spread(frame, write)


def training_step(node: Node, backend: Backend, kernels: PlanKernels | None) -> TrainingStep:
    """Return the step that runs a node; ``kernels`` is None if everything is to run as eager."""
    rule = node.attributes
    x, y = node.inputs[0], node.output
    if kernels is None or x is None or not x.dtype == y.dtype == np.float32:
        return TrainingStep(node, backend)
    if node.operation is Linear and node.inputs[1] is not None:
        return _Linear(node, backend, kernels)
    if not len(x.shape) == len(y.shape) == 4:
        return TrainingStep(node, backend)
    if node.operation is ConvEpilogue and rule["algorithm"] != "im2col":
        weight = node.inputs[1]
        if weight is not None and weight.source is not None:
            return _Convolution(node, backend, kernels)
    if node.operation is NormActivation and rule["training"]:
        return _Norm(node, backend, kernels)
    if is_whole_mean(node):
        return _Mean(node, backend, kernels)
    if is_plain_max(node, kernels):
        return _MaxPool(node, backend, kernels)
    return TrainingStep(node, backend)
