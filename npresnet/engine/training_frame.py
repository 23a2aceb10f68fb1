"""What one training step works on: values, gradients, and the memory that both lie in."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from npresnet.engine.arena import laid
from npresnet.engine.graph import Value
from npresnet.engine.steps import Frame
from npresnet.engine.storage import Storage
from npresnet_kernels.contract import Array

__all__ = ["Area", "TrainingFrame"]


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
            return
        self.repeatable &= self.storage.is_noted(grad)
        if value in self.grads:
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
