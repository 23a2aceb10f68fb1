"""Steps of an inference plan: a node bound to the kernel that runs it.

A fast step writes into memory that the plan gives it. Any other operation is a :class:`Step`: its
forward, as eager calls it, with the result kept until the last step that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar, cast

import numpy as np

from npresnet.backend import Backend
from npresnet.elementary import Reshape
from npresnet.engine.batch import resolve
from npresnet.engine.graph import Node, Value
from npresnet.engine.kernels import PlanKernels, PooledConvolution, RecordedKernels
from npresnet.engine.lone import Lone, lone_operation
from npresnet.engine.operations import (
    ConvEpilogue,
    PooledConv,
    conv_shape,
    is_whole_mean,
    max_window,
)
from npresnet.engine.storage import Storage, dense
from npresnet.functional.linear import Linear
from npresnet.functional.norm import BatchNorm
from npresnet.tape import Context
from npresnet_kernels.contract import Array
from npresnet_kernels.shapes import PoolWindow

__all__ = ["Frame", "Step", "features", "inference_step"]

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
    storage : Storage
        What maps are kept in.
    repeatable : bool
        Whether all that was computed so far lies in memory that the plan keeps.
    """

    __slots__ = ("batch", "repeatable", "scratch", "storage", "values")

    def __init__(
        self, values: dict[Value, Array], batch: int, scratch: Array, storage: Storage
    ) -> None:
        self.values = values
        self.batch = batch
        self.scratch = scratch
        self.storage = storage
        self.repeatable = True

    def dense(self, x: Array) -> Array:
        """Return an array C-contiguous."""
        if x.flags.c_contiguous:
            return x
        self.repeatable = False
        return x.copy()

    def maps(self, value: Value) -> Array:
        """Return maps as plan kernels take them: dense (N, H, W, C), in the storage type."""
        x = self.values[value]
        if x.dtype != self.storage.dtype:
            self.repeatable = False
            x = self.storage.converted(x, self.storage.dtype)
        return self.dense(x.transpose(0, 2, 3, 1))

    def stored(self, value: Value) -> Array:
        """Return a value as it is kept: dense rows (N, C), or maps (N, H, W, C)."""
        x = self.values[value]
        return self.dense(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)

    def operands(self, node: Node) -> list[Array | None]:
        """Return a node's inputs as its own forward takes them."""
        return [
            None if v is None else self.storage.converted(self.values[v], v.dtype)
            for v in node.inputs
        ]

    def put(self, value: Value, result: Array) -> None:
        """Keep what an operation's own forward made."""
        self.repeatable = False
        self.values[value] = self.storage.converted(result, self.storage.of(value))


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

    def channels_of(self, value: Value) -> int:
        """Return how many channels it reads of an input; those beyond the true ones are zeros."""
        own: int = value.shape[1]
        return own

    def prepare(self, lookup: Lookup, out: Any = None) -> Any:
        """Return what can be worked out of the parameters once, in ``out`` of an earlier time."""

    def scratch_floats(self, threads: int, batch: int) -> int:
        """Return the float32 of working memory that :meth:`run` needs, for up to ``batch``."""
        return 0

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        node = self.node
        attributes = resolve(node.attributes, frame.batch)
        context = Context(self.context.backend, self.context.needs_grad)
        result = node.operation.forward(context, *frame.operands(node), **attributes)
        frame.put(node.output, context.xp.asarray(result))


class View(Step):
    """Another shape for the same elements, in the same place where they lie in order."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        x = self.node.inputs[0]
        assert x is not None
        array, y = frame.values[x], self.node.output
        if array.flags.c_contiguous and array.dtype == x.dtype == frame.storage.of(y):
            frame.values[y] = array.reshape(y.shape_at(frame.batch))
        else:
            super().run(frame, pack)


class SingleImages(Step):
    """Convolve image by image: a matrix product rounds differently for another batch."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        arrays: list[Any] = frame.operands(self.node)
        x, weight, bias, residual = arrays
        parts = []
        for i in range(frame.batch):
            other = None if residual is None else residual[i : i + 1]
            attributes = self.node.attributes
            parts.append(
                ConvEpilogue.forward(self.context, x[i : i + 1], weight, bias, other, **attributes)
            )
        frame.put(self.node.output, self.context.xp.concatenate(parts))


class SingleRows(Step):
    """Multiply by a matrix row by row, without BLAS: its order of adding depends on the batch."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        x, weight, bias = frame.operands(self.node)
        assert x is not None
        xp = self.context.xp
        rows = dense(x)
        y = xp.empty(self.node.output.shape_at(frame.batch), rows.dtype)
        for i in range(len(rows)):
            y[i] = xp.einsum("oi,i->o", weight, rows[i])
        frame.put(self.node.output, y if bias is None else y + bias)


class FastStep(Step):
    """A step that writes into the plan's memory with the backend's plan kernels."""

    buffered = True

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend)
        self.kernels = kernels
        x = node.inputs[0]
        assert x is not None
        self.x = x

    def target(self, frame: Frame) -> Array:
        """Return the output's memory, (N, H, W, C) for maps."""
        y = frame.values[self.node.output]
        return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y

    def vector(self, frame: Frame, position: int) -> Array | None:
        """Return an input of one number a channel, if there is one."""
        value = self.node.inputs[position]
        return None if value is None else frame.dense(frame.values[value])


class FastConvolution(FastStep):
    """Convolution with bias, residual and ReLU in one kernel, for up to ``batch`` of the plan."""

    def __init__(
        self,
        node: Node,
        backend: Backend,
        kernels: PlanKernels,
        storage: Storage,
        batch: int,
    ) -> None:
        super().__init__(node, backend, kernels)
        self.storage = storage
        weight = node.inputs[1]
        assert weight is not None
        self.packs = (weight,)
        self.convolution = kernels.convolution(
            conv_shape(node),
            node.attributes["algorithm"],
            storage.dtype,
            self.x.shape_at(batch)[0],
        )

    def prepare(self, lookup: Lookup, out: Any = None) -> Array:
        """Lay the weights out as the kernel reads them."""
        return self.convolution.pack(dense(lookup(self.packs[0])), out)

    def channels_of(self, value: Value) -> int:
        """Return how many channels it reads of an input."""
        alone = self.node.inputs.count(value) == 1
        own: int = value.shape[1]
        return self.convolution.input_channels if value is self.x and alone else own

    def scratch_floats(self, threads: int, batch: int) -> int:
        """Return what the kernel needs; reshaped maps may be more than images."""
        images, channels = self.storage.shape_at(self.x, batch)[:2]
        return self.convolution.scratch_floats(threads, batch=images, channels=channels)

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        residual = self.node.inputs[3]
        self.convolution.forward(
            frame.maps(self.x),
            pack,
            self.target(frame),
            frame.scratch,
            self.vector(frame, 2),
            None if residual is None else frame.maps(residual),
            self.node.attributes["relu"],
        )


class FastPooledConvolution(FastConvolution):
    """Convolution with bias, ReLU and a max pool in one kernel."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        rule = self.node.attributes
        window, stride, padding = rule["pool"]
        cast(PooledConvolution, self.convolution).forward_pooled(
            frame.maps(self.x),
            pack,
            self.target(frame),
            frame.scratch,
            self.vector(frame, 2),
            rule["relu"],
            window=window,
            stride=stride,
            padding=padding,
        )


class FastLinear(FastStep):
    """A linear layer, or a 1x1 convolution of features, which rounds alike in any batch."""

    def __init__(
        self, node: Node, backend: Backend, kernels: PlanKernels, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(node, backend, kernels)
        weight = node.inputs[1]
        assert weight is not None
        self.packs = (weight,)
        self.layer = kernels.dense(weight.shape[1], weight.shape[0], dtype)

    def prepare(self, lookup: Lookup, out: Any = None) -> Array:
        """Lay the weights out as the kernel reads them."""
        weight = dense(lookup(self.packs[0]))
        return self.layer.pack(weight.reshape(weight.shape[:2]), out)

    def scratch_floats(self, threads: int, batch: int) -> int:
        """Return what the kernel needs."""
        return self.layer.scratch_floats(threads, batch=self.x.shape_at(batch)[0])

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        y = features(self.target(frame))
        self.layer.forward(
            features(frame.stored(self.x)), pack, y, frame.scratch, self.vector(frame, 2)
        )
        if self.node.attributes.get("relu"):
            cast(RecordedKernels, self.kernels).relu(y, y)


class LoneStep(FastStep):
    """An operation with a kernel of its own."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels, lone: Lone) -> None:
        super().__init__(node, backend, kernels)
        self.lone = lone

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        self.lone.forward(frame)


class FastMaxPool(FastStep):
    """Maximum over windows."""

    def __init__(
        self, node: Node, backend: Backend, kernels: PlanKernels, window: PoolWindow
    ) -> None:
        super().__init__(node, backend, kernels)
        self.window = window

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        self.kernels.max_pool_forward(frame.maps(self.x), self.target(frame), None, self.window)


class FastMean(FastStep):
    """Mean over each whole map."""

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        self.kernels.average_pool_forward(frame.maps(self.x), self.target(frame)[:, 0, 0])


class FastNorm(FastStep):
    """Batch norm with running statistics, where no convolution could take it in."""

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        # in place of a weight or a bias that isn't there
        channels = node.output.shape[1]
        self.neutral = [backend.xp.full(channels, n, node.output.dtype) for n in (1.0, 0.0)]

    def run(self, frame: Frame, pack: Any) -> None:
        """Compute the output."""
        gamma, beta, mean, variance = (self.vector(frame, position) for position in (1, 2, 3, 4))
        assert mean is not None
        assert variance is not None
        self.kernels.batch_norm_forward(
            frame.maps(self.x),
            mean,
            variance,
            self.neutral[0] if gamma is None else gamma,
            self.neutral[1] if beta is None else beta,
            self.target(frame),
            eps=self.node.attributes["eps"],
        )


def features(x: Array) -> Array:
    """(N, 1, 1, C) as (N, C); rows as they are."""
    return x[:, 0, 0] if x.ndim == 4 else x


def inference_step(
    node: Node,
    backend: Backend,
    kernels: PlanKernels | None,
    storage: Storage,
    flowing: Collection[Value],
    batch: int,
) -> Step:
    """Return the step that runs a node.

    Parameters
    ----------
    node : Node
    backend : Backend
    kernels : PlanKernels or None
        None if everything is to run as eager.
    storage : Storage
    flowing : collection of Value
        What differs from call to call; a weight among them can't be laid out beforehand.
    batch : int
        The largest.
    """
    if node.operation in (ConvEpilogue, PooledConv, Linear) and node.inputs[1] in flowing:
        kernels = None
    fast = kernels is not None and node.output.dtype == np.float32
    rule = node.attributes
    lone = lone_operation(node, kernels, storage)
    if lone is not None and kernels is not None:
        return LoneStep(node, backend, kernels, lone)
    if storage.is_pointwise(node) and kernels is not None:
        return FastLinear(node, backend, kernels, storage.dtype)
    if node.operation is ConvEpilogue:
        if fast and kernels is not None and rule["algorithm"] != "im2col":
            return FastConvolution(node, backend, kernels, storage, batch)
        return SingleImages(node, backend)
    if node.operation is PooledConv and fast and kernels is not None:
        return FastPooledConvolution(node, backend, kernels, storage, batch)
    if node.operation is Linear:
        if fast and kernels is not None:
            return FastLinear(node, backend, kernels, storage.dtype)
        return SingleRows(node, backend)
    if node.operation is Reshape:
        return View(node, backend)
    if not fast or kernels is None or len(node.output.shape) != 4:
        return Step(node, backend)
    if node.operation is BatchNorm and not rule["training"]:
        return FastNorm(node, backend, kernels)
    if is_whole_mean(node):
        return FastMean(node, backend, kernels)
    window = max_window(node)
    if window is not None and kernels.takes_max_pool(window):
        return FastMaxPool(node, backend, kernels, window)
    return Step(node, backend)
