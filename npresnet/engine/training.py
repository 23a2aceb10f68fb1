"""Training plans: forward, backward and update of a traced model, without the tape.

The loss runs eagerly on the model's output, so that any function will do; all that is large is
in the plan. The optimizer updates the parameters, with its own state: eager steps and plan steps
can take turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npresnet.backend import Backend, use_backend
from npresnet.engine.arena import Arena
from npresnet.engine.graph import Graph, Value
from npresnet.engine.inference import (
    checked_shape,
    chosen_precision,
    entered,
    home,
    plannable,
    received,
    takes_fallback,
)
from npresnet.engine.kernels import PlanKernels
from npresnet.engine.passes.choose_algorithm import choose_algorithm
from npresnet.engine.passes.fuse_normalise import fuse_normalise
from npresnet.engine.passes.fuse_statistics import fuse_statistics
from npresnet.engine.passes.plan_memory import Buffer, plan_memory
from npresnet.engine.trace import trace_any_batch
from npresnet.engine.training_steps import TrainingFrame, TrainingStep, training_step
from npresnet.errors import GraphError, RangeError, ShapeError
from npresnet.nn import Module
from npresnet.optim.optimizer import Optimizer
from npresnet.optim.scaler import GradScaler
from npresnet.tape import enable_grad
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["EagerStep", "TrainingPlan", "compile_step"]

Loss = Callable[[Any, Any], Tensor]


def _loss_of(loss: Loss, output: Any, target: Any) -> Tensor:
    """Return the loss, checked to be something that can be minimised."""
    value = loss(output, target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {value.shape}" if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(
            f"the loss must return a Tensor with one number, got {found}: use reduction='mean'"
        )
    return value


class EagerStep:
    """A training step on the tape, called like a plan.

    Attributes
    ----------
    reason : str
        Why it isn't a plan.
    precision : {"fp32", "tf32"}
        How a GPU takes its float32 products.
    scaler : GradScaler
        Scales the loss, if it is enabled.
    """

    def __init__(
        self,
        model: Module,
        loss: Loss,
        optimizer: Optimizer,
        shape: tuple[int, ...],
        reason: str,
        precision: str,
        scaler: GradScaler,
    ) -> None:
        self.backend, self.dtype = home(model)
        self.shape = shape
        self.reason = reason
        self.precision, self.scaler = precision, scaler
        self._model, self._loss, self._optimizer = model, loss, optimizer

    def __call__(self, x: Any, y: Any) -> float:
        """Take one step; arguments and result as of a plan."""
        array = received(x, self.shape, self.dtype, self.backend)
        self._optimizer.zero_grad()
        with use_backend(self.backend, self.precision):
            value = _loss_of(self._loss, self._model(Tensor(array)), y)
            self.scaler.scale(value).backward()
            self.scaler.step(self._optimizer)
            self.scaler.update()
        self._optimizer.zero_grad()
        return float(value)


class _Program:
    """The plan of one state of a model: which layers train, which parameters learn."""

    def __init__(self, model: Module, shape: tuple[int, ...], algorithm: str) -> None:
        self.backend, self.dtype = home(model)
        self.shape = shape
        kernels: PlanKernels | None = None
        if self.dtype == np.float32:
            kernels = self.backend.plan_kernels
        graph = trace_any_batch(model, shape, self.dtype, training=True)
        graph = fuse_statistics(fuse_normalise(graph))
        self.graph: Graph = choose_algorithm(graph, kernels, algorithm)
        self.kernels = kernels
        if kernels is not None:
            kernels.announce()
        self._steps = [training_step(node, self.backend, kernels) for node in self.graph.nodes]
        self._outside = self.graph.outside()
        self._learned = {
            value: np.empty(value.shape, value.dtype) for value in self._outside if value.needs_grad
        }
        if kernels is None:  # what is computed elsewhere is collected as it comes
            self._learned = {}
        self._activations, self._grads, work, size = self._plan_memory()
        self._arena = Arena(size)
        views = [self._arena.view(o, (n,), np.dtype(np.float32)) for o, n in work]
        self._work = list(zip(views[::2], views[1::2], strict=True))
        self._scratch: dict[int, int] = {}
        self._views: dict[int, tuple[dict[Value, Array], dict[Value, Array]]] = {}

    def run(
        self, x: Array, loss: Loss, target: Any, scaler: GradScaler
    ) -> tuple[Tensor, dict[Tensor, Array]]:
        """Return the loss, and the gradient of it, scaled, by each parameter.

        Statistics and counters move.
        """
        batch = len(x)
        if batch not in self._views:
            self._views[batch] = self._look(batch)
        activations, grads = self._views[batch]
        values = {v: v.source.data for v in self._outside if v.source is not None}
        values.update(activations)
        values[self.graph.inputs[0]] = entered(x, values.get(self.graph.inputs[0]), self.kernels)
        frame = TrainingFrame(batch, self._arena.scratch(self._scratch_floats()), values, grads)
        for step, (work, _) in zip(self._steps, self._work, strict=True):
            step.forward(frame, work)
        for buffer, count in self.graph.counters:
            buffer.data[...] += count

        leaves = []
        for v in self.graph.outputs:
            y = frame.values[v]
            if v in self._activations:  # the loss may keep it; the next step writes there
                y = y.copy(order="K")
            leaves.append(Tensor(y, requires_grad=v.needs_grad))
        with enable_grad():
            value = _loss_of(loss, self.graph.rebuild(list(leaves)), target)
        if value.requires_grad:
            scaler.scale(value).backward()
        for v, leaf in zip(self.graph.outputs, leaves, strict=True):
            frame.collect(v, leaf.grad)
        for step, (_, work) in zip(reversed(self._steps), reversed(self._work), strict=True):
            if step.node.output in frame.grads:
                step.backward(frame, work)
        found = {
            v.source: frame.grads[v]
            for v in self._outside
            if v.source is not None and v in frame.grads
        }
        return value, found

    def _scratch_floats(self) -> int:
        """Return the working memory that the steps need on as many threads as there are now."""
        threads = 0 if self.kernels is None else self.kernels.thread_count()
        if threads not in self._scratch:
            needs = (step.scratch_floats(threads) for step in self._steps)
            self._scratch[threads] = max(needs, default=0)
        return self._scratch[threads]

    def _plan_memory(
        self,
    ) -> tuple[dict[Value, int], dict[Value, int], list[tuple[int, int]], int]:
        """Return offsets of activations, gradients and work areas (with sizes), and the total."""
        if self.kernels is None:  # then every array is made as it comes
            return {}, {}, [(0, 0)] * (2 * len(self._steps)), 0
        batch, end = self.shape[0], 2 * len(self._steps)
        activations = _activation_lives(self._steps, self.graph)
        gradients = _gradient_lives(self._steps, self.graph)
        places = _gradient_places(self._steps, gradients)
        shared: dict[Value, tuple[int, int]] = {}  # by what lies in a place first
        for value, place in places.items():
            first, last = shared.get(place, gradients[value])
            life = gradients[value]
            shared[place] = min(first, life[0]), max(last, life[1])
        buffers = [
            Buffer(value.bytes_at(batch), *life)
            for value, life in (*activations.items(), *shared.items())
        ]
        for now, step in enumerate(self._steps):
            forward, backward = step.work_floats
            buffers.append(Buffer(4 * forward, now, now))
            buffers.append(Buffer(4 * backward, end - now, end - now))
        offsets, size = plan_memory(buffers)
        rest = len(activations) + len(shared)
        areas = zip(offsets[rest:], buffers[rest:], strict=True)
        found = dict(zip(shared, offsets[len(activations) :], strict=False))
        return (
            dict(zip(activations, offsets, strict=False)),
            {value: found[place] for value, place in places.items()},
            [(offset, buffer.size // 4) for offset, buffer in areas],
            size,
        )

    def _look(self, batch: int) -> tuple[dict[Value, Array], dict[Value, Array]]:
        """Return the memory of activations and of gradients for a batch."""
        activations, grads = (
            {v: self._arena.place(o, v.shape_at(batch), v.dtype) for v, o in offsets.items()}
            for offsets in (self._activations, self._grads)
        )
        grads.update(self._learned)
        return activations, grads


# Time, for both functions below, runs over the forward steps (step i at i), the loss (at
# len(steps)) and the backward steps in reverse (step i at 2 * len(steps) - i).


def _activation_lives(steps: list[TrainingStep], graph: Graph) -> dict[Value, tuple[int, int]]:
    """Return when each activation in the arena is written, and when it is read last."""
    end = 2 * len(steps)
    last: dict[Value, int] = {}
    for now, step in enumerate(steps):
        read = [value for value in step.node.inputs if value is not None]
        last.update(dict.fromkeys((*read, step.node.output), now))
    last.update(dict.fromkeys(graph.outputs, len(steps)))
    for now, step in reversed(list(enumerate(steps))):
        if step.node.output.needs_grad:
            for value in step.backward_reads:
                last[value] = max(last[value], end - now)
        if not step.buffered:  # its output may be a view of its input
            for source in filter(None, step.node.inputs):
                last[source] = max(last[source], last[step.node.output])
    lives = {
        step.node.output: (now, last[step.node.output])
        for now, step in enumerate(steps)
        if step.buffered
    }
    entry = graph.inputs[0]
    if len(entry.shape) == 4 and entry in last:
        lives[entry] = (0, last[entry])
    return lives


def _gradient_lives(steps: list[TrainingStep], graph: Graph) -> dict[Value, tuple[int, int]]:
    """Return when each map's gradient is first written, and when it is read last."""
    end = 2 * len(steps)
    first = dict.fromkeys(graph.outputs, len(steps))
    for now, step in reversed(list(enumerate(steps))):
        for value in step.node.inputs:
            if value is not None:
                first.setdefault(value, end - now)
    lives = {}
    for now, step in enumerate(steps):
        value = step.node.output
        if value.needs_grad and value in first and len(value.shape) == 4:
            # steps without memory of their own may hand views of their gradient on
            lives[value] = (first[value], end - now if step.buffered else end)
    return lives


def _gradient_places(
    steps: list[TrainingStep], lives: dict[Value, tuple[int, int]]
) -> dict[Value, Value]:
    """Return for each map's gradient whose memory it lies in: another's that it is written over."""
    end = 2 * len(steps)
    places = {value: value for value in lives}
    for now, step in reversed(list(enumerate(steps))):
        y, x = step.node.output, step.in_place
        # nothing is in x's gradient before this step, and nobody reads y's after it
        if x in lives and y in lives and lives[x][0] == lives[y][1] == end - now:
            places[x] = places[y]
    return places


class TrainingPlan:
    """One training step of a model: gradients, and the optimizer's update.

    Call it with images and targets; it returns the loss. Running statistics, their counters and
    the optimizer's state move as they do eagerly. A plan follows changes of the learning rate, of
    layers' modes and of ``requires_grad``.

    Attributes
    ----------
    graph : Graph
        The forward pass that it runs; print it.
    shape : tuple of int
        Of the largest input.
    dtype : dtype
        Of the input.
    backend : Backend
        Where it runs.
    precision : {"fp32", "tf32", "fp16", "bf16"}
        What it computes a float32 model in.
    scaler : GradScaler
        Scales the loss, if it is enabled.
    """

    def __init__(
        self,
        model: Module,
        loss: Loss,
        optimizer: Optimizer,
        shape: tuple[int, ...],
        algorithm: str,
        precision: str,
        scaler: GradScaler,
    ) -> None:
        self.shape = shape
        self.precision, self.scaler = precision, scaler
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._algorithm = algorithm
        self._lock = threading.Lock()
        self._made_for: Any = None
        self._programs: dict[int, _Program] = {}
        self._program(shape[0])

    @property
    def graph(self) -> Graph:
        """The forward pass that it runs."""
        return self._programs[self.shape[0]].graph

    @property
    def backend(self) -> Backend:
        """Where it runs."""
        return self._programs[self.shape[0]].backend

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the input."""
        return self._programs[self.shape[0]].dtype

    def __call__(self, x: Any, y: Any) -> float:
        """Take one step.

        Parameters
        ----------
        x : array or Tensor
            Images, of the plan's shape or fewer.
        y : array or Tensor
            What the loss compares the model's output with.

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        ShapeError, DtypeError, BackendError
            If ``x`` isn't what the plan was made for.
        """
        with self._lock:
            array = received(x, self.shape, self.dtype, self.backend)
            program = self._program(len(array))
            self._optimizer.zero_grad()  # the loss may add gradients of its own, as a penalty
            value, grads = program.run(array, self._loss, y, self.scaler)
            for tensor, grad in grads.items():
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad
            with self._optimizer.borrowing(program.kernels):
                self.scaler.step(self._optimizer)
            self.scaler.update()
            for tensor in grads:
                tensor.grad = None  # its memory is the plan's
            self._optimizer.zero_grad()
            return float(value)

    def _program(self, batch: int) -> _Program:
        """Return the program for a batch, made anew if the model trains otherwise than before."""
        model = self._model
        tensors = [*model.parameters(), *model.buffers()]
        state = (
            [module.training for module in model.modules()],
            [(id(t), t.requires_grad, t.dtype, t.shape) for t in tensors],
        )
        if state != self._made_for:
            self._programs.clear()
            self._made_for = state
        if self.shape[0] not in self._programs:
            self._programs[self.shape[0]] = _Program(model, self.shape, self._algorithm)
        program = self._programs[self.shape[0]]
        if program.graph.batch in (None, batch):
            return program
        if batch not in self._programs:  # the model does something else for this batch
            shape = (batch, *self.shape[1:])
            self._programs[batch] = _Program(model, shape, self._algorithm)
        return self._programs[batch]

    def __repr__(self) -> str:
        return f"<training plan of {type(self._model).__name__} for {self.shape}, {self.dtype}>"


def compile_step(
    model: Module,
    loss: Loss,
    optimizer: Optimizer,
    shape: Sequence[int],
    algorithm: str = "auto",
    fallback: str | None = None,
    precision: str | None = None,
    scaler: GradScaler | None = None,
) -> TrainingPlan | EagerStep:
    """Make a training step: forward, backward and update, faster than eager and with its results.

    Parameters
    ----------
    model : Module
        Its layers' modes and ``requires_grad`` hold as they are at each step.
    loss : callable
        ``loss(output, target)``, a Tensor with one number.
    optimizer : Optimizer
        Its settings are read at each step, its state is its own.
    shape : sequence of int
        Of the largest batch, for instance (128, 3, 32, 32); smaller ones are taken too.
    algorithm : {"auto", "im2col", "direct", "winograd"}
        How convolutions are computed where there is a choice.
    fallback : {None, "eager"}
        What to do with a model that can't be traced: raise an error, or run it eagerly.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        As for :func:`npresnet.compile`. In 16 bits activations and their gradients have 16 bits;
        parameters, their gradients, batch norm's statistics and the optimizer's state stay float32.
    scaler : GradScaler, optional
        Scales the loss. None: a new one for ``"fp16"``, and no scaling for the others; it is the
        step's ``scaler``, whose state belongs into checkpoints.

    Returns
    -------
    TrainingPlan or EagerStep
        Called as ``step(x, y)``; returns the loss as a float.

    Raises
    ------
    GraphError
        If the model can't be traced; with 16 bits there is no fallback.
    BackendError, DtypeError
        If the model can't be computed in that precision where it lives.
    ShapeError, RangeError
        If the model doesn't take such a shape, or an argument is none of those listed.
    """
    if fallback not in (None, "eager"):
        raise RangeError(f"fallback must be None or 'eager', got {fallback!r}")
    sizes, precision = checked_shape(shape), chosen_precision(model, precision)
    if scaler is None:
        scaler = GradScaler(enabled=precision == "fp16")
    try:
        plannable(model)
        return TrainingPlan(model, loss, optimizer, sizes, algorithm, precision, scaler)
    except GraphError as error:
        takes_fallback(fallback, precision, error)
        return EagerStep(model, loss, optimizer, sizes, str(error), precision, scaler)
