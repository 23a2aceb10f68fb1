"""Training plans: forward, backward and update of a traced model, without the tape.

A cross-entropy is computed by the plan's kernels; any other loss runs eagerly on the model's
output. The optimizer updates the parameters, with its own state: eager steps and plan steps can
take turns. Forward and backward are recorded (see :mod:`npresnet.engine.recorded_passes`); on a
device the update is part of that, too: see :mod:`npresnet.engine.device_step`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from npresnet.backend import use_backend
from npresnet.engine.device_step import DeviceStep
from npresnet.engine.graph import Graph
from npresnet.engine.inference import arrays_of
from npresnet.engine.loss_kernel import LossKernel
from npresnet.engine.program import Program
from npresnet.engine.recorded_passes import RecordedPasses
from npresnet.engine.recording import turn_of, turns_on
from npresnet.engine.request import (
    checked_shape,
    chosen_precision,
    home,
    received,
    takes_fallback,
)
from npresnet.engine.structure import Structure
from npresnet.engine.training_frame import TrainingFrame
from npresnet.errors import DtypeError, GraphError, RangeError, ShapeError
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


def _goes_on(loss: float, scaler: GradScaler) -> bool:
    """Return whether a step with this loss is taken; a scaler finds out by the gradients."""
    return scaler.is_enabled() or math.isfinite(loss)


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
    output : object
        What the model returned in the last step, as arrays; None before the first.
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
        self.output: Any = None
        self._model, self._loss, self._optimizer = model, loss, optimizer

    def __call__(self, x: Any, y: Any) -> float:
        """Take one step; arguments and result as of a plan."""
        self.backend, self.dtype = home(self._model)  # it may have been moved or converted
        array = received(x, self.shape, self.dtype, self.backend)
        self._optimizer.zero_grad()
        with use_backend(self.backend, self.precision):
            output = self._model(Tensor(array))
            value = _loss_of(self._loss, output, y)
            loss = float(value)
            if _goes_on(loss, self.scaler):
                self.scaler.scale(value).backward()
                self.scaler.step(self._optimizer)
                self.scaler.update()
        self._optimizer.zero_grad()
        self.output = arrays_of(output)
        return loss


class TrainingPlan:
    """One training step of a model: gradients, and the optimizer's update.

    Parameters that the optimizer doesn't have are left alone, their ``grad`` too.

    Call it with images and targets; it returns the loss. Running statistics, their counters and
    the optimizer's state move as they do eagerly. A plan follows changes of the learning rate, of
    layers' modes and settings, of ``requires_grad``, and layers that are exchanged. Several threads
    may call it: one step follows another. A NaN or an infinity in the input reaches more of the
    output's pixels than eagerly where convolutions go by Winograd's algorithm.

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
        self._lock = threading.RLock()
        self._made_for: Any = None
        self._structure = Structure(model)
        self._programs: dict[int, _Compiled] = {}
        self._outputs: Callable[[], Any] | None = None
        self._follow()
        self._program(shape[0])

    @property
    def graph(self) -> Graph:
        """The forward pass that it runs."""
        with self._lock:
            self._follow()
            return self._program(self.shape[0]).program.graph

    @property
    def output(self) -> Any:
        """What the model returned in the last step: new arrays, None before the first."""
        with self._lock:
            if self._outputs is None:
                return None
            with self.backend.scope(), turn_of(self._turns):
                return self._outputs()

    @property
    def recorded(self) -> bool:
        """Whether steps are replayed from a recording of the kernels' work.

        That needs a backend that can record, and plan kernels for every operation; the recording is
        made in the second step of a batch size. On a device it is of the whole step, for SGD and
        AdamW; with a loss other than cross-entropy, which runs on the tape, of what comes before
        it and what comes after. On the CPU it is of forward and, a step later, of backward.
        """
        return any(
            compiled.passes.recorded if compiled.device is None else compiled.device.recorded
            for compiled in self._programs.values()
        )

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
            The loss before the update. If it isn't a finite number, no parameter is changed; with
            a scaler, and where the update is done on the device, neither if a gradient isn't.

        Raises
        ------
        ShapeError, DtypeError, BackendError
            If ``x`` isn't what the plan was made for.
        """
        with self._lock:
            self._follow()  # the model may have moved
            array = received(x, self.shape, self.dtype, self.backend)
            compiled = self._program(len(array))
            self._optimizer.zero_grad()  # the loss may add gradients of its own, as a penalty
            try:
                with self.backend.computing_in(self.precision), turn_of(self._turns):
                    loss = self._step(compiled, array, y)
            except MemoryError:
                self._programs.clear()  # the plan's memory
                raise
            finally:
                self._optimizer.zero_grad()
            for buffer in compiled.moved:
                buffer._version += 1
            return loss

    def _step(self, compiled: _Compiled, x: Array, y: Any) -> float:
        """Take one step with a program, as much of it on the device as can be."""
        program = compiled.program
        device = compiled.device
        done = None if device is None else device.whole(x, y, self.scaler)
        if done is not None:
            loss, whole = done
            self._outputs = lambda: program.graph.rebuild(program.outputs(whole))
            return loss

        frame = device.forward(x) if device is not None else compiled.passes.forward(x)
        outputs = program.outputs(frame)
        self._outputs = lambda: program.graph.rebuild([y.copy(order="K") for y in outputs])
        loss = self._loss_of_outputs(compiled, frame, outputs, y)
        if not _goes_on(loss, self.scaler):
            return loss
        learned = {p for group in self._optimizer.param_groups for p in group["params"]}
        alone = all(p.grad is None for p in learned)  # else the loss has added its own
        if device is not None and alone and device.backward(frame, self.scaler):
            return loss
        grads = compiled.passes.backward(frame)
        # parameters of no group keep what they have: these gradients lie in the plan's memory
        for tensor in learned:
            if tensor in grads:
                grad = grads[tensor]
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad
        with self._optimizer.borrowing(program.kernels):
            self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss

    def _loss_of_outputs(
        self, compiled: _Compiled, frame: TrainingFrame, outputs: list[Array], y: Any
    ) -> float:
        """Return the loss; if the step goes on, the gradients of the outputs are in the frame."""
        kernel = None if compiled.device is not None else compiled.loss
        if kernel is not None and kernel.takes(y, frame.batch):
            return kernel(frame, self.scaler.get_scale())
        program, values = compiled.program, compiled.program.graph.outputs
        leaves = [
            Tensor(y, requires_grad=v.needs_grad) for v, y in zip(values, outputs, strict=True)
        ]
        with enable_grad(), use_backend(program.backend):
            value = _loss_of(self._loss, program.graph.rebuild(list(leaves)), y)
            loss = float(value)
            if value.requires_grad and _goes_on(loss, self.scaler):
                self.scaler.scale(value).backward()
        for v, leaf in zip(values, leaves, strict=True):
            frame.collect(v, leaf.grad)
        return loss

    def _follow(self) -> None:
        """Forget the programs if the model trains otherwise than before."""
        model = self._model
        tensors = [*model.parameters(), *model.buffers()]
        state = (
            [module.training for module in model.modules()],
            [(id(t), t.requires_grad, t.dtype, t.shape) for t in tensors],
        )
        if state != self._made_for or not self._structure.holds():
            self._programs.clear()
            self._made_for = state
            self.backend, self.dtype = home(model)
            self._turns = turns_on(self.backend)

    def _program(self, batch: int) -> _Compiled:
        """Return the program for a batch, of the model as it was last seen."""
        compiled = self._programs.get(self.shape[0]) or self._compile(self.shape)
        if compiled.program.graph.batch in (None, batch):
            return compiled
        # the model does something else for this batch
        return self._programs.get(batch) or self._compile((batch, *self.shape[1:]))

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        with self.backend.computing_in(self.precision):
            program = Program(self._model, shape, self._algorithm, self.precision)
            loss = device = recorder = None
            if LossKernel.fits(program, self._loss):
                loss = LossKernel(program, self._loss)
            if DeviceStep.fits(program, self._optimizer):
                device = DeviceStep(program, loss, self._optimizer)
            elif program.kernels is not None and self.backend.reads_at_once:
                recorder = program.kernels.recorder()
        passes = RecordedPasses(program, recorder)
        compiled = _Compiled(program, passes, loss, device, program.moved)
        self._programs[shape[0]] = compiled
        constants = program.graph.constants()
        self._structure = Structure(self._model, constants)  # forward may count its calls
        return compiled

    def __repr__(self) -> str:
        how = ", recorded" if self.recorded else ""
        return (
            f"<training plan of {type(self._model).__name__} for {self.shape}, {self.dtype}, "
            f"{self.precision}{how}>"
        )


class _Compiled(NamedTuple):
    """What a plan has for a batch: a program, and kernels for its loss and the rest of a step."""

    program: Program
    passes: RecordedPasses
    loss: LossKernel | None
    device: DeviceStep | None
    moved: list[Tensor]


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
    algorithm : {"auto", "im2col", "direct", "winograd", "wgmma"}
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
    if not callable(loss):
        raise DtypeError(f"loss expected a function of (output, target), got {loss!r}")
    if not isinstance(optimizer, Optimizer):
        raise DtypeError(f"optimizer expected one of npresnet.optim's, got {optimizer!r}")
    sizes, precision = checked_shape(shape), chosen_precision(model, precision)
    if scaler is None:
        scaler = GradScaler(enabled=precision == "fp16")
    try:
        return TrainingPlan(model, loss, optimizer, sizes, algorithm, precision, scaler)
    except GraphError as error:
        takes_fallback(fallback, precision, error)
        return EagerStep(model, loss, optimizer, sizes, str(error), precision, scaler)
