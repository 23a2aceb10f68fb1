"""Steps of a training plan that run as on the tape: a node's own forward and backward.

What all steps of training plans have in common stands here.
"""

from __future__ import annotations

from typing import ClassVar

from npresnet.backend import Backend
from npresnet.engine.batch import resolve
from npresnet.engine.graph import Node, Value
from npresnet.engine.training_frame import Area, TrainingFrame
from npresnet.tape import Context

__all__ = ["TrainingStep", "TrainingView"]


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

    def channels_of(self, value: Value) -> int:
        """Return how many channels it reads of an input; those beyond the true ones are zeros."""
        own: int = value.shape[1]
        return own

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


class TrainingView(TrainingStep):
    """Another shape for the same elements, in the same place where they lie in order."""

    @property
    def x(self) -> Value:
        """What is looked at otherwise."""
        x = self.node.inputs[0]
        assert x is not None
        return x

    def forward(self, frame: TrainingFrame, area: Area) -> None:
        """Compute the output."""
        x, y = frame.values[self.x], self.node.output
        shape = y.shape_at(frame.batch)
        if x.flags.c_contiguous and x.dtype == self.x.dtype == frame.storage.of(y):
            frame.values[y] = x.reshape(shape)
        else:
            frame.put(y, frame.storage.converted(x, self.x.dtype).reshape(shape))

    def backward(self, frame: TrainingFrame, area: Area) -> None:
        """Hand the input its gradient."""
        grad = frame.grads[self.node.output]
        if grad.dtype != self.x.dtype or not grad.flags.c_contiguous:
            frame.repeatable = False
        whole = frame.storage.converted(grad, self.x.dtype)
        frame.collect(self.x, whole.reshape(self.x.shape_at(frame.batch)))
