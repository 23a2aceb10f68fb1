"""Steps of a training plan: a node's forward and backward, bound to the kernels that run them.

The fast steps read and write memory that the plan gives them; any other operation is a
:class:`TrainingStep` and runs its own forward and backward, as on the tape.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from npresnet.backend import Backend
from npresnet.elementary import Reshape
from npresnet.engine.arena import laid
from npresnet.engine.batch import resolve
from npresnet.engine.graph import Node, Value
from npresnet.engine.kernels import PlanKernels, recorded_kernels
from npresnet.engine.lone import Lone, lone_operation
from npresnet.engine.operations import ConvEpilogue, NormActivation, is_whole_mean
from npresnet.engine.steps import Frame, features, is_plain_max
from npresnet.engine.storage import Storage, rows
from npresnet.errors import ShapeError
from npresnet.functional.linear import Linear
from npresnet.tape import Context
from npresnet_kernels.contract import Array

__all__ = ["Area", "TrainingFrame", "TrainingStep", "training_step"]


class Area(NamedTuple):
    """Memory for one step alone.

    Attributes
    ----------
    forward, backward : array
        Working memory in the storage type.
    kept : array
        Bytes that forward leaves for backward.
    spares : dict of Value to array
        Bytes for gradients that backward adds to what others wrote.
    """

    forward: Array
    backward: Array
    kept: Array
    spares: dict[Value, Array]


class TrainingFrame(Frame):
    """What one training step works on; :class:`Frame` and:

    Attributes
    ----------
    grads : dict of Value to array
        Gradients so far.
    memory : dict of Value to array
        Where gradients that fast steps write are to lie; those of parameters included.
    moments : dict of Value to array
        By the maps that they are of, memory for a batch's means and variances (2, C).
    gathered : set of Value
        Maps whose moments are there already.
    kept : dict
        By step, what the forward of an operation leaves for its backward.
    spares : dict of Value to array
        Those of the step that runs backward, as far as they aren't in use.
    """

    __slots__ = ("gathered", "grads", "kept", "memory", "moments", "spares")

    def __init__(
        self,
        values: dict[Value, Array],
        batch: int,
        scratch: Array,
        storage: Storage,
        memory: dict[Value, Array],
        moments: dict[Value, Array],
    ) -> None:
        super().__init__(values, batch, scratch, storage)
        self.memory = memory
        self.moments = moments
        self.gathered: set[Value] = set()
        self.grads: dict[Value, Array] = {}
        self.kept: dict[Any, Any] = {}
        self.spares: dict[Value, Array] = {}

    def restart(self) -> None:
        """Forget what a run left, to run again."""
        self.gathered.clear()
        self.grads.clear()
        self.kept.clear()

    def collect(self, value: Value | None, grad: Array | None) -> None:
        """Add a gradient to what a value has collected; it isn't changed later."""
        if value is None or grad is None or not value.needs_grad:
            return
        memory = self.memory.get(value)
        if memory is None:
            self.repeatable = False
            self.grads[value] = self.grads[value] + grad if value in self.grads else grad
        elif value in self.grads:
            self.storage.add_to(memory, grad)
        else:
            self.storage.write(grad, memory)
            self.grads[value] = memory

    def gradient(self, value: Value) -> Array:
        """Return a gradient as it is kept: dense rows (N, C), or maps (N, H, W, C)."""
        grad = self.grads[value]
        return self.dense(grad.transpose(0, 2, 3, 1) if grad.ndim == 4 else grad)

    def target(self, value: Value, dtype: np.dtype[Any] | None = None) -> Array:
        """Return memory to write a gradient to: the value's own if it has none yet, else other.

        ``dtype`` is what is written; None: for maps the storage type, else the value's own.
        """
        flows = value.source is None and len(value.shape) == 4
        dtype = dtype or (self.storage.dtype if flows else value.dtype)
        memory = self.memory.get(value) if value.needs_grad else None
        if memory is not None and memory.dtype == dtype and value not in self.grads:
            self.grads[value] = memory
            return memory
        shape = value.shape_at(self.batch)
        spare = self.spares.pop(value, None)
        if spare is not None:
            return laid(spare, shape, dtype)
        self.repeatable = False
        if flows:
            return self.storage.new(shape, dtype)
        return self.storage.new((math.prod(shape),), dtype).reshape(shape)

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
    def targets(self) -> list[Value]:
        """Inputs whose gradient :meth:`backward` writes to memory, rather than adding to it."""
        return []

    def share(self) -> None:
        """Told if the gradient of ``in_place`` lies where its output's does."""

    @property
    def work_sizes(self) -> tuple[int, int]:
        """Elements of the storage type that forward and backward each want for themselves."""
        return 0, 0

    @property
    def moments_of(self) -> Value | None:
        """Maps whose means and variances it works out, or reads."""
        return None

    def kept_bytes(self, batch: int) -> int:
        """Bytes that forward leaves for backward."""
        return 0

    def scratch_floats(self, threads: int, batch: int) -> int:
        """Return the float32 of working memory that it needs, for up to ``batch`` images."""
        return 0

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        """Compute the output."""
        node = self.node
        context = Context(self.backend, self.needs_grad)
        attributes = resolve(node.attributes, frame.batch)
        result = node.operation.forward(context, *frame.operands(node), **attributes)
        frame.put(node.output, self.backend.xp.asarray(result))
        frame.kept[self] = context

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        """Hand the inputs their gradients."""
        grad = frame.storage.converted(frame.grads[self.node.output], self.node.output.dtype)
        grads = self.node.operation.backward(frame.kept.pop(self), grad)
        for value, part in zip(self.node.inputs, grads, strict=True):
            frame.collect(value, part)


class _View(TrainingStep):
    """Another shape for the same elements, in the same place where they lie in order."""

    @property
    def x(self) -> Value:
        x = self.node.inputs[0]
        assert x is not None
        return x

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        x, y = frame.values[self.x], self.node.output
        shape = y.shape_at(frame.batch)
        if x.flags.c_contiguous and x.dtype == self.x.dtype == frame.storage.of(y):
            frame.values[y] = x.reshape(shape)
        else:
            frame.put(y, frame.storage.converted(x, self.x.dtype).reshape(shape))

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        grad = frame.grads[self.node.output]
        if grad.dtype != self.x.dtype or not grad.flags.c_contiguous:
            frame.repeatable = False
        whole = frame.storage.converted(grad, self.x.dtype)
        frame.collect(self.x, whole.reshape(self.x.shape_at(frame.batch)))


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
        layer: int = self.layer.scratch_floats(threads, True, batch)
        if self.bias is None:
            return layer
        return max(layer, self.norm_scratch(batch, self.weight.shape[0]))

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
        self, node: Node, backend: Backend, kernels: PlanKernels, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(node, backend, kernels)
        rule = node.attributes
        self.layer = kernels.convolution(
            self.x.shape[1:],
            self.weight.shape,
            rule["stride"],
            rule["padding"],
            rule["dilation"],
            rule["groups"],
            rule["algorithm"],
            dtype,
        )

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
            self.kernels.moments(x, moments, frame.scratch)
            frame.gathered.add(self.x)
        mean, var = self.node.inputs[3:5]
        if mean is not None and var is not None:
            running = frame.values[mean], frame.values[var]
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

    def __init__(self, node: Node, backend: Backend, kernels: PlanKernels) -> None:
        super().__init__(node, backend, kernels)
        rule = node.attributes
        self.window = (rule["kernel_size"][0], rule["stride"][0], rule["padding"][0])

    def kept_bytes(self, batch: int) -> int:
        return math.prod(self.y.shape_at(batch))

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        y = frame.maps(self.y)
        winners = area.kept[: y.size].reshape(y.shape)
        self.kernels.max_pool_forward(frame.maps(self.x), y, winners, *self.window)

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        def write(grad_y: Array, grad_x: Array) -> None:
            winners = area.kept[: grad_y.size].reshape(grad_y.shape)
            self.kernels.max_pool_backward(grad_y, winners, grad_x, *self.window)

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
        return _View(node, backend)
    if kernels is None or x is None or not x.dtype == y.dtype == np.float32:
        return TrainingStep(node, backend)
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    own = weight is not None and weight.source is not None
    if own and (node.operation is Linear or storage.is_pointwise(node)):
        return _Linear(node, backend, kernels, storage.dtype)
    if not len(x.shape) == len(y.shape) == 4:
        return TrainingStep(node, backend)
    if node.operation is ConvEpilogue and rule["algorithm"] != "im2col" and own:
        return _Convolution(node, backend, kernels, storage.dtype)
    both = node.operation is NormActivation and (node.inputs[3] is None) == (node.inputs[4] is None)
    if both and rule["training"]:
        return _Norm(node, backend, kernels)
    if both and recorded_kernels(kernels) is not None:
        return _FrozenNorm(node, backend, kernels)
    if is_whole_mean(node):
        return _Mean(node, backend, kernels)
    if is_plain_max(node, kernels):
        return _MaxPool(node, backend, kernels)
    return TrainingStep(node, backend)
