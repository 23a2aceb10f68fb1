"""The forward and backward pass of a training plan: its steps, and the memory that they run in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npresnet.engine.arena import Arena
from npresnet.engine.graph import Graph, Value
from npresnet.engine.kernels import PlanKernels
from npresnet.engine.lifetimes import activation_lives, gradient_lives, gradient_places
from npresnet.engine.operations import NormActivation
from npresnet.engine.passes.choose_algorithm import choose_algorithm
from npresnet.engine.passes.fuse_normalise import fuse_normalise
from npresnet.engine.passes.fuse_statistics import fuse_statistics
from npresnet.engine.passes.plan_memory import Buffer, plan_memory
from npresnet.engine.plain_training_steps import TrainingStep
from npresnet.engine.request import home
from npresnet.engine.storage import STORED, Storage
from npresnet.engine.trace import trace_any_batch
from npresnet.engine.training_frame import Area, TrainingFrame
from npresnet.engine.training_steps import training_step
from npresnet.nn import Module
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["Program"]


class Program:
    """The plan of one state of a model: which layers train, which parameters learn.

    Parameters
    ----------
    model : Module
        Traced as it is now.
    shape : tuple of int
        Of the largest input.
    algorithm, precision : str
        As of `npresnet.compile_step`.

    Attributes
    ----------
    backend : Backend
        Where it runs.
    dtype : dtype
        Of the input.
    graph : Graph
        The forward pass.
    kernels : PlanKernels or None
        None: every operation runs as on the tape.
    steps : list of TrainingStep
        One for each node.
    """

    def __init__(
        self, model: Module, shape: tuple[int, ...], algorithm: str, precision: str
    ) -> None:
        self.backend, self.dtype = home(model)
        self.shape = shape
        kernels: PlanKernels | None = None
        if self.dtype == np.float32:
            kernels = self.backend.plan_kernels
        self.kernels = kernels
        stored: np.dtype[Any] = self.dtype
        if kernels is not None:
            kernels.announce()
            stored = STORED[precision]
        graph = trace_any_batch(model, shape, self.dtype, training=True)
        graph = fuse_statistics(fuse_normalise(graph))
        self.graph: Graph = choose_algorithm(graph, kernels, algorithm, stored, True)
        self._storage = storage = Storage(stored, self.backend, kernels, self.graph.nodes)
        self.steps: list[TrainingStep] = [
            training_step(node, self.backend, kernels, storage) for node in self.graph.nodes
        ]
        storage.pad_input(self.graph, self.steps)
        self._outside = self.graph.outside()
        self._activations: dict[Value, int] = {}
        self._grads: dict[Value, int] = {}
        self._learned: dict[Value, Array] = {}
        self._moments: dict[Value, Array] = {}
        nothing = np.empty(0)
        self._areas = [Area(nothing, nothing, nothing, {})] * len(self.steps)
        self._arena: Arena | None = None
        if kernels is not None:  # else what is computed is collected as it comes
            self._lay_out(kernels)
        self._scratch: dict[int, int] = {}
        self._views: dict[int, tuple[dict[Value, Array], dict[Value, Array]]] = {}

    # ------------------------------------------------------------------ running

    def begin(self, x: Array, keep: bool = False) -> TrainingFrame:
        """Return what one step works on; with ``keep``, all of it in the plan's memory."""
        batch = len(x)
        if batch not in self._views:
            self._views[batch] = self._look(batch)
        activations, grads = self._views[batch]
        values = {v: v.source.data for v in self._outside if v.source is not None}
        values.update(activations)
        entry = self.graph.inputs[0]
        values[entry] = self._storage.enter(x, values.get(entry), keep)
        scratch = np.empty(0, np.float32)
        if self._arena is not None:
            scratch = self._arena.scratch(self._scratch_floats())
        return TrainingFrame(values, batch, scratch, self._storage, grads, self._moments)

    def forward(self, frame: TrainingFrame) -> None:
        """Compute the outputs; statistics move."""
        for step, area in zip(self.steps, self._areas, strict=True):
            step.forward(frame, area)

    def count(self) -> None:
        """Move the counters, as a forward pass does."""
        for buffer, count in self.graph.counters:
            counter = buffer.data
            counter += count

    def backward(self, frame: TrainingFrame) -> dict[Tensor, Array]:
        """Return the gradient of each parameter; those of the outputs are in the frame."""
        for step, area in zip(reversed(self.steps), reversed(self._areas), strict=True):
            if step.node.output in frame.grads:
                frame.spares = dict(area.spares)
                step.backward(frame, area)
        return {
            v.source: frame.grads[v]
            for v in self._outside
            if v.source is not None and v in frame.grads
        }

    @property
    def moved(self) -> list[Tensor]:
        """Buffers that :meth:`forward` and :meth:`count` change."""
        norms = [step.node for step in self.steps if step.node.operation is NormActivation]
        running = [v for n in norms if n.attributes["training"] for v in n.inputs[3:5]]
        found = [v.source for v in running if v is not None and v.source is not None]
        return [*found, *(buffer for buffer, _ in self.graph.counters)]

    def outputs(self, frame: TrainingFrame) -> list[Array]:
        """Return what the forward pass computed, as arrays that the next step leaves alone."""
        found = []
        for v in self.graph.outputs:
            y = frame.values[v]
            if y.dtype != v.dtype:
                y = self._storage.converted(y, v.dtype)
            elif self.kernels is not None:
                y = y.copy(order="K")
            found.append(y)
        return found

    # ------------------------------------------------------------------ for recordings

    @property
    def lies_in_its_memory(self) -> bool:
        """Whether no step runs as on the tape, with arrays of its own."""
        return not any(type(step) is TrainingStep for step in self.steps)

    def expected_gradients(self) -> dict[Tensor, Array]:
        """Return where :meth:`backward` will put the gradient of each parameter that gets one."""
        reached = {value for value in self.graph.outputs if value.needs_grad}
        for step in reversed(self.steps):
            if step.node.output in reached:
                reached.update(v for v in step.node.inputs if v is not None and v.needs_grad)
        return {
            v.source: memory
            for v, memory in self._learned.items()
            if v in reached and v.source is not None
        }

    def sources(self) -> list[Array]:
        """Return the arrays of parameters, buffers and constants."""
        return [v.source.data for v in self._outside if v.source is not None]

    # ------------------------------------------------------------------ memory

    def _scratch_floats(self) -> int:
        """Return the working memory that steps and loss need on as many threads as there are."""
        threads = 0 if self.kernels is None else self.kernels.thread_count()
        if threads not in self._scratch:
            needs = (step.scratch_floats(threads, self.shape[0]) for step in self.steps)
            self._scratch[threads] = max((self.shape[0], *needs))  # the loss: a float a row
        return self._scratch[threads]

    def _lay_out(self, kernels: PlanKernels) -> None:
        """Give activations, gradients, and what steps want for themselves, their memory."""
        storage, steps = self._storage, self.steps
        batch, end = self.shape[0], 2 * len(steps)
        activations = activation_lives(steps, self.graph)
        gradients = gradient_lives(steps, self.graph)
        places = gradient_places(steps, gradients, storage)
        for step in steps:
            if step.in_place in places and places[step.in_place] == places.get(step.node.output):
                step.share()
        shared: dict[Value, tuple[int, int]] = {}  # by what lies in a place first
        for value, place in places.items():
            first, last = shared.get(place, gradients[value])
            life = gradients[value]
            shared[place] = min(first, life[0]), max(last, life[1])
        buffers = [
            Buffer(storage.bytes_at(value, batch), *life)
            for value, life in (*activations.items(), *shared.items())
        ]
        size = storage.dtype.itemsize
        for now, step in enumerate(steps):
            forward, backward = step.work_sizes
            buffers.append(Buffer(size * forward, now, now))
            buffers.append(Buffer(size * backward, end - now, end - now))
            buffers.append(Buffer(step.kept_bytes(batch), now, end - now))
        second = [
            (now, value)
            for now, step in enumerate(steps)
            for value in dict.fromkeys(step.targets)
            if value in gradients and gradients[value][0] < end - now  # another was here before
        ]
        buffers += [Buffer(storage.bytes_at(v, batch), end - now, end - now) for now, v in second]
        offsets, total = plan_memory(buffers)
        self._arena = arena = Arena(total, kernels.memory)
        self._activations = dict(zip(activations, offsets, strict=False))
        found = dict(zip(shared, offsets[len(activations) :], strict=False))
        self._grads = {value: found[place] for value, place in places.items()}
        rest = len(activations) + len(shared)
        areas = [
            arena.view(offset, (buffer.size,), np.dtype(np.uint8))
            for offset, buffer in zip(offsets[rest:], buffers[rest:], strict=True)
        ]
        own, spare = areas[: 3 * len(steps)], areas[3 * len(steps) :]
        self._areas = [
            Area(forward.view(storage.dtype), backward.view(storage.dtype), kept, {})
            for forward, backward, kept in zip(own[::3], own[1::3], own[2::3], strict=True)
        ]
        for (now, value), memory in zip(second, spare, strict=True):
            self._areas[now].spares[value] = memory
        for value in self._outside:
            if value.needs_grad:
                self._learned[value] = _array(kernels, value.shape, value.dtype)
        for step in steps:
            if step.moments_of is not None:
                shape = 2, step.moments_of.shape[1]
                self._moments[step.moments_of] = _array(kernels, shape, kernels.STATISTICS)

    def _look(self, batch: int) -> tuple[dict[Value, Array], dict[Value, Array]]:
        """Return the memory of activations and of gradients for a batch."""
        if self._arena is None:
            return {}, {}
        arena, storage = self._arena, self._storage
        activations, grads = (
            {
                v: arena.place(o, storage.shape_at(v, batch), storage.of(v))
                for v, o in places.items()
            }
            for places in (self._activations, self._grads)
        )
        grads.update(self._learned)
        return activations, grads


def _array(kernels: PlanKernels, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return memory of a plan's own, in C order."""
    return kernels.memory(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
