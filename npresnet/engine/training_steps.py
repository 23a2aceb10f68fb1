"""Steps of a training plan with plan kernels: a node's forward and backward, bound to them.

They read and write memory that the plan gives them; any other operation is a plain
:class:`~npresnet.engine.plain_training_steps.TrainingStep`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from npresnet.backend import Backend
from npresnet.elementary import Reshape
from npresnet.engine.graph import Node, Value
from npresnet.engine.kernels import PlanKernels, recorded_kernels
from npresnet.engine.lone import Lone, lone_operation
from npresnet.engine.operations import (
    ConvEpilogue,
    NormActivation,
    conv_shape,
    is_whole_mean,
    max_window,
)
from npresnet.engine.plain_training_steps import TrainingStep, TrainingView
from npresnet.engine.steps import features
from npresnet.engine.storage import Storage, rows
from npresnet.engine.training_frame import Area, TrainingFrame
from npresnet.errors import ShapeError
from npresnet.functional.linear import Linear
from npresnet_kernels.contract import Array
from npresnet_kernels.shapes import PoolWindow

__all__ = ["training_step"]


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

    @property
    def targets(self) -> list[Value]:
        return [self.x]

    def vector(self, frame: TrainingFrame, position: int) -> Array | None:
        """Return an input of one number a channel, if there is one."""
        value = self.node.inputs[position]
        return None if value is None else frame.dense(frame.values[value])

    def spread(self, frame: TrainingFrame, write: Callable[[Array, Array], None]) -> None:
        """Call ``write(grad_y, grad_x)`` if training wants the gradient of x."""
        if self.x.needs_grad:
            grad_x = frame.target(self.x)
            write(frame.gradient(self.y), rows(grad_x))
            frame.settle(self.x, grad_x)

    def norm_scratch(self, batch: int, channels: int) -> int:
        """Return the float32 that sums over the output's rows need."""
        count = math.prod(self.y.shape_at(batch)) // channels
        return -(-self.kernels.norm_scratch_bytes(count, channels) // 4)


class _Weighted(_FastStep):
    """What convolutions and linear layers share: weights laid out anew, gradients of both."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        weight = node.inputs[1]
        assert weight is not None
        assert weight.source is not None
        self.weight, self.bias = weight, node.inputs[2]
        self.form: tuple[int, ...] = weight.shape
        """The weight's shape as the layer takes it."""
        self.layer: Any = None

    @property
    def backward_reads(self) -> list[Value]:
        return [self.x] if self.weight.needs_grad else []

    @property
    def work_sizes(self) -> tuple[int, int]:
        grad = self.layer.packed_grad_size if self.x.needs_grad else 0
        return self.layer.packed_size, grad

    def scratch_floats(self, threads: int, batch: int) -> int:
        layer = self.layer_floats(threads, batch)
        if self.bias is None:
            return layer
        return max(layer, self.norm_scratch(batch, self.weight.shape[0]))

    def layer_floats(self, threads: int, batch: int) -> int:
        """Return the working memory of the layer alone; rows of pixels are more than images."""
        floats: int = self.layer.scratch_floats(threads, True, self.x.shape_at(batch)[0])
        return floats

    def packed(self, frame: TrainingFrame, area: Area) -> Array:
        """Return the weights as forward reads them."""
        weight = frame.dense(frame.values[self.weight]).reshape(self.form)
        packed: Array = self.layer.pack(weight, area.forward)
        return packed

    def packed_grad(self, frame: TrainingFrame, area: Area) -> Array:
        """Return the weights as backward reads them."""
        weight = frame.dense(frame.values[self.weight]).reshape(self.form)
        packed: Array = self.layer.pack_grad_input(weight, area.backward)
        return packed

    def parameters(self, frame: TrainingFrame, x: Array, grad: Array) -> None:
        """Work out the gradients of weight and bias."""
        if self.weight.needs_grad:
            target = frame.target(self.weight)
            self.layer.grad_weight(x, grad, target.reshape(self.form), frame.scratch)
            frame.settle(self.weight, target)
        if self.bias is not None and self.bias.needs_grad:
            target = frame.target(self.bias)
            self.kernels.channel_sum(grad, target, frame.scratch)
            frame.settle(self.bias, target)


class _Convolution(_Weighted):
    """Convolution; sums up its output for the batch norm behind it."""

    def __init__(
        self, node: Node, backend: Backend, kernels: PlanKernels, storage: Storage
    ) -> None:
        super().__init__(node, backend, kernels)
        self.storage = storage
        algorithm = node.attributes["algorithm"]
        self.layer = kernels.convolution(conv_shape(node), algorithm, storage.dtype)

    def channels_of(self, value: Value) -> int:
        own: int = self.layer.input_channels if value is self.x else value.shape[1]
        return own

    def layer_floats(self, threads: int, batch: int) -> int:
        images, channels = self.storage.shape_at(self.x, batch)[:2]
        floats: int = self.layer.scratch_floats(threads, True, images, channels)
        return floats

    @property
    def targets(self) -> list[Value]:
        return []

    @property
    def moments_of(self) -> Value | None:
        return self.y if self.node.attributes["statistics"] else None

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        moments = None
        if self.node.attributes["statistics"]:
            moments = frame.moments[self.y]
            frame.gathered.add(self.y)
        self.layer.forward(
            frame.maps(self.x),
            self.packed(frame, area),
            frame.maps(self.y),
            frame.scratch,
            self.vector(frame, 2),
            moments=moments,
        )

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        grad = frame.gradient(self.y)
        if self.weight.needs_grad or self.bias is not None:
            self.parameters(frame, frame.maps(self.x), grad)
        if self.x.needs_grad:
            packed = self.packed_grad(frame, area)
            grad_x = frame.grads.get(self.x)
            adds = grad_x is not None and grad_x.dtype == frame.storage.dtype
            if grad_x is None or not adds:
                grad_x = frame.target(self.x)
            self.layer.grad_input(grad, packed, rows(grad_x), frame.scratch, adds)
            frame.settle(self.x, grad_x)


class _Norm(_FastStep):
    """Batch norm in training + residual + ReLU."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        self.go_back: Callable[..., None] = kernels.batch_norm_backward
        # in place of a weight or a bias that isn't there, and of gradients that nobody wants
        shape, xp = self.y.shape[1:2], backend.xp
        self.neutral = [xp.full(shape, number, self.y.dtype) for number in (1.0, 0.0)]
        self.unwanted = [xp.empty(shape, self.y.dtype) for _ in range(2)]

    @property
    def backward_reads(self) -> list[Value]:
        # without a residual, x tells where the ReLU passed
        reads_y = self.node.attributes["relu"] and self.node.inputs[5] is not None
        return [self.x, self.y] if reads_y else [self.x]

    @property
    def targets(self) -> list[Value]:
        residual = self.node.inputs[5]
        return [self.x] if residual is None else [self.x, residual]

    @property
    def moments_of(self) -> Value | None:
        return self.x

    @property
    def in_place(self) -> Value | None:
        residual = self.node.inputs[5]
        return self.x if residual is None or not residual.needs_grad else residual

    def scratch_floats(self, threads: int, batch: int) -> int:
        return self.norm_scratch(batch, self.y.shape[1])

    def affine(self, frame: TrainingFrame) -> tuple[Array, Array]:
        """Return weight and bias, or what stands for them."""
        gamma, beta = self.vector(frame, 1), self.vector(frame, 2)
        return (
            self.neutral[0] if gamma is None else gamma,
            self.neutral[1] if beta is None else beta,
        )

    def statistics(self, frame: TrainingFrame) -> tuple[Array, Array]:
        """Return means and variances."""
        mean, variance = frame.moments[self.x]
        return mean, variance

    def gather(self, frame: TrainingFrame, x: Array) -> None:
        """Work the statistics out, and move the running ones."""
        rule = self.node.attributes
        count = x.size // x.shape[3]
        if count < 2:
            raise ShapeError(
                "batch_norm in training needs more than one value a channel, got input shape "
                f"{self.x.shape_at(frame.batch)}: use a larger batch, or eval()"
            )
        moments = frame.moments[self.x]
        if self.x not in frame.gathered:
            # no convolution of the plan's own before it, as with groups or dilation
            self.kernels.moments(x, moments, frame.scratch)
            frame.gathered.add(self.x)
        mean, var = self.node.inputs[3:5]
        if mean is not None and var is not None:
            running = frame.values[mean], frame.values[var]
            frame.repeatable &= all(array.flags.c_contiguous for array in running)
            self.kernels.update_running_(moments, *running, rule["momentum"], count)

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        rule = self.node.attributes
        x = frame.maps(self.x)
        self.gather(frame, x)
        residual = self.node.inputs[5]
        self.kernels.batch_norm_forward(
            x,
            *self.statistics(frame),
            *self.affine(frame),
            frame.maps(self.y),
            None if residual is None else frame.maps(residual),
            rule["relu"],
            rule["eps"],
        )

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        rule = self.node.attributes
        residual = self.node.inputs[5]
        grad_x = frame.target(self.x)
        grad_residual = None
        if residual is not None and residual.needs_grad:
            grad_residual = frame.target(residual)
        learned = [v if v is not None and v.needs_grad else None for v in self.node.inputs[1:3]]
        gammas, betas = (
            spare if v is None else frame.target(v)
            for v, spare in zip(learned, self.unwanted, strict=True)
        )
        self.go_back(
            frame.gradient(self.y),
            frame.maps(self.x),
            *self.statistics(frame),
            *self.affine(frame),
            rows(grad_x),
            rule["relu"],
            frame.maps(self.y) if self.y in self.backward_reads else None,
            None if grad_residual is None else rows(grad_residual),
            rule["eps"],
            grad_gamma=gammas,
            grad_beta=betas,
            scratch=frame.scratch,
        )
        frame.settle(self.x, grad_x)
        if residual is not None and grad_residual is not None:
            frame.settle(residual, grad_residual)
        for value, grad in zip(learned, (gammas, betas), strict=True):
            if value is not None:
                frame.settle(value, grad)


class _FrozenNorm(_Norm):
    """The same with running statistics, in evaluation while the rest trains."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        self.go_back = functools.partial(cast(Any, kernels).batch_norm_backward, frozen=True)

    @property
    def moments_of(self) -> Value | None:
        return None

    def gather(self, frame: TrainingFrame, x: Array) -> None:
        """Nothing: they are there."""

    def statistics(self, frame: TrainingFrame) -> tuple[Array, Array]:
        mean, variance = self.vector(frame, 3), self.vector(frame, 4)
        assert mean is not None
        assert variance is not None
        return mean, variance


class _Linear(_Weighted):
    """A linear layer, or a 1x1 convolution of features, by the plan's kernel.

    Not by BLAS, whose threads would wait for the cores.
    """

    def __init__(
        self, node: Node, backend: Backend, kernels: PlanKernels, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(node, backend, kernels)
        self.form = self.weight.shape[:2]
        self.layer = kernels.dense(self.weight.shape[1], self.weight.shape[0], dtype)

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        self.layer.forward(
            features(frame.stored(self.x)),
            self.packed(frame, area),
            features(frame.stored(self.y)),
            frame.scratch,
            self.vector(frame, 2),
        )

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        grad = features(frame.gradient(self.y))
        self.parameters(frame, features(frame.stored(self.x)), grad)
        if self.x.needs_grad:
            grad_x = frame.target(self.x, self.x.dtype)
            rows_x = grad_x[:, :, 0, 0] if grad_x.ndim == 4 else grad_x
            self.layer.grad_input(grad, self.packed_grad(frame, area), rows_x, frame.scratch)
            frame.settle(self.x, grad_x)


class _LoneStep(_FastStep):
    """An operation with a kernel of its own."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels, lone: Lone) -> None:
        super().__init__(node, backend, kernels)
        self.lone = lone

    @property
    def backward_reads(self) -> list[Value]:
        return self.lone.reads

    @property
    def in_place(self) -> Value | None:
        return self.lone.x if self.lone.in_place else None

    @property
    def targets(self) -> list[Value]:
        return self.lone.targets

    def share(self) -> None:
        self.lone.shares = True

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        self.lone.forward(frame)

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        self.lone.backward(frame)


class _MaxPool(_FastStep):
    """Maximum over windows; keeps a byte an output, the winner's number."""

    def __init__(
        self, node: Node, backend: Backend, kernels: PlanKernels, window: PoolWindow
    ) -> None:
        super().__init__(node, backend, kernels)
        self.window = window

    def kept_bytes(self, batch: int) -> int:
        return math.prod(self.y.shape_at(batch))

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        y = frame.maps(self.y)
        winners = area.kept[: y.size].reshape(y.shape)
        self.kernels.max_pool_forward(frame.maps(self.x), y, winners, self.window)

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        def write(grad_y: Array, grad_x: Array) -> None:
            winners = area.kept[: grad_y.size].reshape(grad_y.shape)
            self.kernels.max_pool_backward(grad_y, winners, grad_x, self.window)

        self.spread(frame, write)


class _Mean(_FastStep):
    """Mean over each whole map."""

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        y = frame.values[self.y]
        self.kernels.average_pool_forward(frame.maps(self.x), y[:, :, 0, 0])

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        def write(grad_y: Array, grad_x: Array) -> None:
            self.kernels.average_pool_backward(grad_y[:, 0, 0], grad_x)

        self.spread(frame, write)


def training_step(
    node: Node, backend: Backend, kernels: PlanKernels | None, storage: Storage
) -> TrainingStep:
    """Return the step that runs a node; ``kernels`` is None if everything is to run as eager."""
    rule = node.attributes
    x, y = node.inputs[0], node.output
    lone = lone_operation(node, kernels, storage)
    if lone is not None and kernels is not None:
        return _LoneStep(node, backend, kernels, lone)
    if node.operation is Reshape:
        return TrainingView(node, backend)
    if kernels is None or x is None or not x.dtype == y.dtype == np.float32:
        return TrainingStep(node, backend)
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    own = weight is not None and weight.source is not None
    if own and (node.operation is Linear or storage.is_pointwise(node)):
        return _Linear(node, backend, kernels, storage.dtype)
    if not len(x.shape) == len(y.shape) == 4:
        return TrainingStep(node, backend)
    if node.operation is ConvEpilogue and rule["algorithm"] != "im2col" and own:
        return _Convolution(node, backend, kernels, storage)
    both = node.operation is NormActivation and (node.inputs[3] is None) == (node.inputs[4] is None)
    if both and rule["training"]:
        return _Norm(node, backend, kernels)
    if both and recorded_kernels(kernels) is not None:
        return _FrozenNorm(node, backend, kernels)
    if is_whole_mean(node):
        return _Mean(node, backend, kernels)
    window = max_window(node)
    if window is not None and kernels.takes_max_pool(window):
        return _MaxPool(node, backend, kernels, window)
    return TrainingStep(node, backend)
