"""Steps of an inference plan: a node bound to the kernel that runs it.

A fast step writes into memory that the plan gives it. Any other operation is a :class:`Step`: its
forward, as eager calls it, with the result kept until the last step that reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from npresnet.backend import Backend
from npresnet.engine.batch import resolve
from npresnet.engine.graph import Node, Value
from npresnet.engine.kernels import PlanKernels
from npresnet.engine.operations import ConvEpilogue
from npresnet.functional.linear import Linear
from npresnet.functional.norm import BatchNorm
from npresnet.functional.pool import AdaptiveAvgPool2d, MaxPool2d
from npresnet.tape import Context
from npresnet_kernels.contract import Array

__all__ = ["Frame", "Step", "inference_step", "is_plain_max", "is_whole_mean", "nhwc"]

Lookup = Callable[[Value], Array]


class Frame:
    """What one call of a plan works on.

    Attributes
    ----------
    values : dict of Value to array
        What is known so far; maps are logical (N, C, H, W).
    batch : int
        Images in this call.
    scratch : array
        Working memory of the step that runs.
    """

    __slots__ = ("batch", "scratch", "values")

    def __init__(self, values: dict[Value, Array], batch: int, scratch: Array) -> None:
        self.values = values
        self.batch = batch
        self.scratch = scratch


def nhwc(x: Array) -> Array:
    """(N, C, H, W) to C-contiguous (N, H, W, C): a view of what kernels made."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


class Step:
    """A node run as eager runs it.

    Attributes
    ----------
    node : Node
        What it computes.
    buffered : bool
        Whether it writes its output into memory given by the plan.
    packs : tuple of Value
        What :meth:`prepare` needs; not looked at in :meth:`run`.
    done : list of Value
        Values that nobody needs once this step has run.
    """

    buffered: ClassVar[bool] = False

    def __init__(self, node: Node, backend: Backend) -> None:
        self.node = node
        self.context = Context(backend, (False,) * len(node.inputs))
        self.packs: tuple[Value, ...] = ()
        self.done: list[Value] = []

    @property
    def reads(self) -> list[Value]:
        """What :meth:`run` looks at."""
        return [v for v in self.node.inputs if v is not None and v not in self.packs]

    def prepare(self, lookup: Lookup) -> Any:
        """Return what can be worked out of the parameters once."""

    def scratch_floats(self, threads: int) -> int:
        """Return the float32 of working memory that :meth:`run` needs."""
        return 0

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        node = self.node
        arrays = [None if v is None else frame.values[v] for v in node.inputs]
        attributes = resolve(node.attributes, frame.batch)
        context = Context(self.context.backend, self.context.needs_grad)
        result = node.operation.forward(context, *arrays, **attributes)
        frame.values[node.output] = context.xp.asarray(result)

    def maps(self, frame: Frame, position: int) -> Array:
        """Return an input as (N, H, W, C)."""
        value = self.node.inputs[position]
        assert value is not None
        return nhwc(frame.values[value])

    def vector(self, position: int, frame: Frame, default: float) -> Array:
        """Return an input of one number a channel, or a constant if there is none."""
        value = self.node.inputs[position]
        if value is not None:
            return np.ascontiguousarray(frame.values[value])
        channels = self.node.output.shape[1]
        return np.full(channels, default, self.node.output.dtype)


class SingleImages(Step):
    """Convolve image by image: a matrix product rounds differently for another batch."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        node = self.node
        arrays: list[Any] = [None if v is None else frame.values[v] for v in node.inputs]
        x, weight, bias, residual = arrays
        parts = []
        for i in range(frame.batch):
            other = None if residual is None else residual[i : i + 1]
            attributes = node.attributes
            parts.append(
                ConvEpilogue.forward(self.context, x[i : i + 1], weight, bias, other, **attributes)
            )
        frame.values[node.output] = self.context.xp.concatenate(parts)


class SingleRows(Step):
    """Multiply by a matrix row by row, without BLAS: its order of adding depends on the batch."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        x, weight, bias = (None if v is None else frame.values[v] for v in self.node.inputs)
        assert x is not None
        xp = self.context.xp
        rows = xp.ascontiguousarray(x)
        y = xp.empty(self.node.output.shape_at(frame.batch), rows.dtype)
        for i in range(len(rows)):
            xp.einsum("oi,i->o", weight, rows[i], out=y[i])
        frame.values[self.node.output] = y if bias is None else y + bias


class FastStep(Step):
    """A step that writes into the plan's memory with the backend's plan kernels."""

    buffered = True

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend)
        self.kernels = kernels

    def target(self, frame: Frame) -> Array:
        """Return the output's memory, (N, H, W, C) for maps."""
        y = frame.values[self.node.output]
        return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


class FastConvolution(FastStep):
    """Convolution with bias, residual and ReLU in one kernel."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        x, weight, _, _ = node.inputs
        assert x is not None
        assert weight is not None
        rule = node.attributes
        self.packs = (weight,)
        self.convolution = kernels.convolution(
            x.shape[1:], weight.shape, rule["stride"], rule["padding"], rule["algorithm"]
        )

    def prepare(self, lookup: Lookup) -> Array:
        """Lay the weights out as the kernel reads them."""
        return self.convolution.pack(np.ascontiguousarray(lookup(self.packs[0])))

    def scratch_floats(self, threads: int) -> int:
        """Return what the kernel needs."""
        return self.convolution.scratch_floats(threads)

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        self.convolution.forward(
            self.maps(frame, 0),
            pack,
            self.target(frame),
            frame.scratch,
            None if self.node.inputs[2] is None else self.vector(2, frame, 0.0),
            None if self.node.inputs[3] is None else self.maps(frame, 3),
            self.node.attributes["relu"],
        )


class FastLinear(FastStep):
    """A linear layer as a 1x1 convolution of 1x1 maps, which rounds alike in any batch."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        weight = node.inputs[1]
        assert weight is not None
        self.packs = (weight,)
        outputs, inputs = weight.shape
        self.convolution = kernels.convolution(
            (inputs, 1, 1), (outputs, inputs, 1, 1), (1, 1), (0, 0), "direct"
        )

    def prepare(self, lookup: Lookup) -> Array:
        """Lay the weights out as the kernel reads them."""
        weight = np.ascontiguousarray(lookup(self.packs[0]))
        return self.convolution.pack(weight[:, :, None, None])

    def scratch_floats(self, threads: int) -> int:
        """Return what the kernel needs."""
        return self.convolution.scratch_floats(threads)

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        x = self.node.inputs[0]
        assert x is not None
        rows = np.ascontiguousarray(frame.values[x])
        bias = None if self.node.inputs[2] is None else self.vector(2, frame, 0.0)
        self.convolution.forward(
            rows[:, None, None], pack, self.target(frame)[:, None, None], frame.scratch, bias
        )


class FastMaxPool(FastStep):
    """Maximum over windows."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        rule = self.node.attributes
        window = (rule["kernel_size"][0], rule["stride"][0], rule["padding"][0])
        self.kernels.max_pool_forward(self.maps(frame, 0), self.target(frame), None, *window)


class FastMean(FastStep):
    """Mean over each whole map."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        self.kernels.average_pool_forward(self.maps(frame, 0), self.target(frame)[:, 0, 0])


class FastNorm(FastStep):
    """Batch norm with running statistics, where no convolution could take it in."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        self.kernels.batch_norm_forward(
            self.maps(frame, 0),
            self.vector(3, frame, 0.0),
            self.vector(4, frame, 1.0),
            self.vector(1, frame, 1.0),
            self.vector(2, frame, 0.0),
            self.target(frame),
            eps=self.node.attributes["eps"],
        )


def inference_step(node: Node, backend: Backend, kernels: PlanKernels | None) -> Step:
    """Return the step that runs a node; ``kernels`` is None if everything is to run as eager."""
    fast = kernels is not None and node.output.dtype == np.float32
    rule = node.attributes
    if node.operation is ConvEpilogue:
        if fast and kernels is not None and rule["algorithm"] != "im2col":
            return FastConvolution(node, backend, kernels)
        return SingleImages(node, backend)
    if node.operation is Linear:
        if fast and kernels is not None:
            return FastLinear(node, backend, kernels)
        return SingleRows(node, backend)
    if not fast or kernels is None or len(node.output.shape) != 4:
        return Step(node, backend)
    if node.operation is BatchNorm and not rule["training"]:
        return FastNorm(node, backend, kernels)
    if is_whole_mean(node):
        return FastMean(node, backend, kernels)
    if is_plain_max(node, kernels):
        return FastMaxPool(node, backend, kernels)
    return Step(node, backend)


def is_whole_mean(node: Node) -> bool:
    """Return whether a node takes the mean over each whole map."""
    return node.operation is AdaptiveAvgPool2d and node.attributes["output_size"] == (1, 1)


def is_plain_max(node: Node, kernels: PlanKernels) -> bool:
    """Return whether a node is a max pool that the plan kernels can do."""
    rule = node.attributes
    if node.operation is not MaxPool2d or rule["dilation"] != (1, 1) or rule["ceil_mode"]:
        return False
    return kernels.takes_max_pool(rule["kernel_size"], rule["stride"], rule["padding"])
