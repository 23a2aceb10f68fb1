"""The element type that a plan keeps its maps in, which may be narrower than the model's.

Maps (N, C, H, W) are what fills memory, so in a 16-bit plan they have 16 bits. All else, features
(N, C) or (N, C, 1, 1) and logits among it, stays float32, as do parameters. Operations without a
plan kernel compute in the model's dtype: their maps are widened before, and narrowed after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from npresnet.backend import Backend
from npresnet.engine.graph import Graph, Node, Value
from npresnet.engine.kernels import PlanKernels, recorded_kernels
from npresnet.engine.operations import is_pointwise, is_whole_mean
from npresnet.functional.activation import ReLU, Sigmoid
from npresnet_kernels.contract import Array

__all__ = ["STORED", "Storage", "dense", "rows"]

STORED: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "tf32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),  # NumPy has no bfloat16: its 16 bits as they are
}
"""By precision, what maps are kept in."""


def dense(x: Array) -> Array:
    """Return an array C-contiguous: itself if it is."""
    return x if x.flags.c_contiguous else x.copy()


def rows(x: Array) -> Array:
    """(N, C, H, W) to C-contiguous (N, H, W, C): a view of what kernels made."""
    return dense(x.transpose(0, 2, 3, 1))


class Reader(Protocol):
    """A step of a plan."""

    node: Node

    def channels_of(self, value: Value) -> int:
        """Return how many channels it reads of an input; those beyond the true ones are zeros."""
        ...


class Storage:
    """What a plan keeps maps in.

    Parameters
    ----------
    dtype : dtype
        Of maps; the others keep the dtype that they were traced with.
    backend : Backend
        Where they live.
    kernels : PlanKernels or None
        None if ``dtype`` is the model's own.
    nodes : iterable of Node
        The graph's.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        backend: Backend,
        kernels: PlanKernels | None,
        nodes: Iterable[Node],
    ) -> None:
        self.dtype = dtype
        self._xp = backend.xp
        self._on_host = backend.reads_at_once
        self._kernels = kernels
        self._features: set[Value] = set()  # (N, C, 1, 1)
        self._pointwise: set[Node] = set()
        self._channels: dict[Value, int] = {}  # where they are more than the value's own
        self._find_features(nodes)

    def _find_features(self, nodes: Iterable[Node]) -> None:
        """Note the means of whole maps, and what becomes of them before they are maps again."""
        lone = recorded_kernels(self._kernels) is not None
        for node in nodes:
            goes_on = lone and node.inputs[0] in self._features
            if goes_on and is_pointwise(node):
                self._pointwise.add(node)
            elif not (is_whole_mean(node) or (goes_on and node.operation in (ReLU, Sigmoid))):
                continue
            self._features.add(node.output)

    def is_pointwise(self, node: Node) -> bool:
        """Return whether a convolution is a linear layer of features, as in squeeze-and-excite."""
        return node in self._pointwise

    def of(self, value: Value) -> np.dtype[Any]:
        """Return what a value that flows is kept in."""
        if self._kernels is None or len(value.shape) != 4 or value.dtype != np.float32:
            return value.dtype
        return value.dtype if value in self._features else self.dtype

    def pad_input(self, graph: Graph, steps: Iterable[Reader]) -> None:
        """Lay the input out with the channels that all of its readers want.

        A kernel that gathers whole vectors of channels would have to copy the images first.
        """
        entry = graph.inputs[0]
        if len(entry.shape) != 4 or entry in graph.outputs:
            return
        wanted = {step.channels_of(entry) for step in steps if entry in step.node.inputs}
        if len(wanted) == 1:
            self._channels[entry] = wanted.pop()

    def shape_at(self, value: Value, batch: int) -> tuple[int, ...]:
        """Return the shape of a value's memory, maps as (N, C, H, W)."""
        shape = value.shape_at(batch)
        channels = self._channels.get(value)
        return shape if channels is None else (shape[0], channels, *shape[2:])

    def bytes_at(self, value: Value, batch: int) -> int:
        """Return the memory that a value takes for a batch of so many images."""
        return math.prod(self.shape_at(value, batch)) * self.of(value).itemsize

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return new memory, for maps in the order (N, H, W, C)."""
        if len(shape) != 4:
            memory: Array = self._xp.empty(shape, dtype)
            return memory
        images, channels, height, width = shape
        maps: Array = self._xp.empty((images, height, width, channels), dtype)
        return maps.transpose(0, 3, 1, 2)

    def converted(self, x: Array, dtype: np.dtype[Any]) -> Array:
        """Return an array in a dtype: itself if it has that."""
        if x.dtype == dtype:
            return x
        made = self.new(x.shape, dtype)
        self.write(x, made)
        return made

    def is_noted(self, x: Array) -> bool:
        """Return whether a recorder sees an array written or added to memory of its dtype.

        One of the host sees plan kernels alone, which take dense float32.
        """
        lies = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
        return not self._on_host or (x.dtype == np.float32 and lies.flags.c_contiguous)

    def _by_kernels(self, x: Array, out: Array) -> bool:
        """Return whether the host writes or adds an array by plan kernels."""
        plan = self._on_host and self._kernels is not None
        return plan and x.dtype == out.dtype and self.is_noted(x)

    def write(self, x: Array, out: Array) -> None:
        """Write an array into memory of its shape."""
        if x.dtype == out.dtype and not self._by_kernels(x, out):
            out[...] = x
            return
        assert self._kernels is not None
        if x.ndim == 4:
            x, out = rows(x), out.transpose(0, 2, 3, 1)
        self._kernels.cast(dense(x), out)

    def add_to(self, out: Array, x: Array) -> None:
        """Add an array to what is in memory of its shape."""
        if out.dtype == x.dtype and out.dtype.itemsize >= 4 and not self._by_kernels(x, out):
            out += x
            return
        assert self._kernels is not None
        x = self.converted(x, out.dtype)
        if x.ndim == 4:
            x, out = rows(x), out.transpose(0, 2, 3, 1)
        self._kernels.add(out, x, out)

    def enter(self, x: Array, memory: Array | None, keep: bool) -> Array:
        """Return a plan's input as its steps read it, in ``memory`` if need be.

        Parameters
        ----------
        x : array (N, ...)
            As users give it, in the model's dtype.
        memory : array or None
            The plan's for it, perhaps with more channels; without, the input is handed through.
        keep : bool
            Whether it must lie in the plan's memory.
        """
        if memory is None or self._kernels is None:
            return x
        if x.ndim != 4:
            if not keep:
                return x
            memory[...] = x
        elif x.transpose(0, 2, 3, 1).flags.c_contiguous:
            if not keep and x.dtype == memory.dtype and x.shape == memory.shape:
                return x
            self._write_rows(x, memory)
        elif x.flags.c_contiguous:
            self._kernels.to_channels_last(x, memory.transpose(0, 2, 3, 1))
        else:
            self._write_rows(x, memory)
        return memory

    def _write_rows(self, x: Array, memory: Array) -> None:
        """Write maps into memory that may have more channels."""
        if x.shape == memory.shape:
            self.write(x, memory)
        else:
            kernels = recorded_kernels(self._kernels)
            assert kernels is not None
            kernels.pad_channels(rows(x), memory.transpose(0, 2, 3, 1))
