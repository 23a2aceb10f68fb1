"""Inference plans: a model traced once and run by the fastest kernels that its backend has."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npresnet.backend import use_backend
from npresnet.engine.arena import Arena, ArenaPool
from npresnet.engine.batch import Multiple, grows
from npresnet.engine.graph import INTERMEDIATE, Graph, Node, Value
from npresnet.engine.kernels import PlanKernels
from npresnet.engine.passes.choose_algorithm import choose_algorithm, uses_winograd
from npresnet.engine.passes.fold_batch_norm import fold_batch_norm
from npresnet.engine.passes.fuse_epilogue import fuse_epilogue
from npresnet.engine.passes.fuse_pool import fuse_pool
from npresnet.engine.passes.plan_memory import Buffer, plan_memory
from npresnet.engine.recording import Recorder, Recording, turn_of, turns_on
from npresnet.engine.request import (
    checked_shape,
    chosen_precision,
    home,
    received,
    takes_fallback,
)
from npresnet.engine.steps import Frame, Step, inference_step
from npresnet.engine.storage import STORED, Storage
from npresnet.engine.structure import Structure
from npresnet.engine.trace import trace_any_batch
from npresnet.engine.weights import Prepared, prepare
from npresnet.errors import GraphError, RangeError
from npresnet.functional.activation import Dropout
from npresnet.nn import Module
from npresnet.tape import no_grad
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["EagerPlan", "InferencePlan", "arrays_of", "compile"]


DIRECT = 0
"""In place of a batch, among other plans: the one without Winograd's transforms."""


class InferencePlan:
    """A model in evaluation mode, ready to run for inputs of one shape and batches up to its own.

    Call it with an array or a Tensor; the result is a new one of the same kind. Several threads
    may call it at once. The model is watched: a plan prepares anew what depends on parameters that
    changed, and compiles itself anew when a layer, parameter, buffer or setting (a stride, an eps)
    is another one than before, or the model was moved or converted. What forward makes of a plain
    NumPy array, say by `tensor`, stays what it was: register such arrays as buffers. NaN and
    infinity stand where eager has them. Where the backend can record what a run does, the runs for
    a batch are replayed from the third on; what makes arrays of its own (an operation without a
    plan kernel) is in the way of that.

    Attributes
    ----------
    graph : Graph
        What it runs; print it.
    shape : tuple of int
        Of the largest input.
    dtype : dtype
        Of inputs and outputs.
    backend : Backend
        Where it runs.
    precision : {"fp32", "tf32", "fp16", "bf16"}
        What it computes a float32 model in.
    """

    def __init__(
        self,
        model: Module,
        shape: tuple[int, ...],
        algorithm: str,
        fast: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.shape = shape
        self.precision = precision
        self._model = model
        self._algorithm = algorithm
        self._fast = fast
        self._lock = threading.Lock()
        self._compile()

    def _compile(self) -> None:
        """Trace the model as it is now, and lay out everything that runs it."""
        model, shape, algorithm = self._model, self.shape, self._algorithm
        self._now: InferencePlan | None = None  # until it has succeeded
        self.backend, self.dtype = home(model)
        chosen_precision(model, self.precision)  # it may have been moved or converted
        self._others: dict[int, InferencePlan] = {}  # where the batch changes what is done
        self._scratch: dict[int, int] = {}
        kernels: PlanKernels | None = None
        if self._fast and self.dtype == np.float32:
            kernels = self.backend.plan_kernels
        self._kernels = kernels
        self._recorder: Recorder | None = None
        self._turns = turns_on(self.backend)
        stored: np.dtype[Any] = self.dtype
        if kernels is not None:
            kernels.announce()
            self._recorder = self._turns or kernels.recorder()
            stored = STORED[self.precision]
        with self.backend.computing_in(self.precision):
            graph = trace_any_batch(model, shape, self.dtype)
            self._structure = Structure(model, graph.constants())  # forward may count its calls
            graph = fuse_epilogue(fold_batch_norm(graph))
            graph = choose_algorithm(graph, kernels, algorithm, stored)
            self.graph = graph = fuse_pool(graph, kernels, stored)
            self._mixes_pixels = uses_winograd(graph)
            self._storage = storage = Storage(stored, self.backend, kernels, graph.nodes)
            self._fixed, flowing = _by_parameters(graph)
            values = {*graph.inputs, *(node.output for node in flowing)}
            self._steps = [
                inference_step(n, self.backend, kernels, storage, values, shape[0]) for n in flowing
            ]
            storage.pad_input(graph, self._steps)
            self._kept = _kept(graph, self._steps)
            self._layout, self._arena_bytes = self._plan_memory()
            self._arenas = ArenaPool(self._new_arena)
        self._settle(self._prepare())

    def _settle(self, prepared: Prepared) -> None:
        """Take what was prepared. Calls work on a copy: other threads may compile meanwhile."""
        self._prepared = prepared
        now = copy.copy(self)
        now._now = None  # and what that holds
        self._now = now

    # ------------------------------------------------------------------ running

    @property
    def recorded(self) -> bool:
        """Whether runs are replayed from a recording of the kernels' work.

        That needs a backend that can record, and plan kernels for every operation; the recording
        is made in the second run of a batch size.
        """
        seats = [seat for arena in self._arenas.idle() for seat in arena.seats().values()]
        return any(seat.recording.replay is not None for seat in seats)

    def __call__(self, x: Any) -> Any:
        """Compute the model's output.

        Parameters
        ----------
        x : array or Tensor
            The plan's shape, or one with fewer images; arrays of PyTorch, JAX and CuPy too.

        Returns
        -------
        array or Tensor
            What the model returns, new: Tensors for a Tensor, else the backend's arrays.

        Raises
        ------
        ShapeError, DtypeError, BackendError
            If ``x`` isn't what the plan was made for.
        """
        now = self._current()
        array = received(x, now.shape, now.dtype, now.backend)
        if now.graph.batch not in (None, len(array)):
            return now._other(len(array))(x)
        with now.backend.computing_in(now.precision), turn_of(now._turns):
            outputs = now._run(array)
            if now._mixes_pixels:
                now._recompute(array, outputs)
        if isinstance(x, Tensor):
            return now.graph.rebuild([Tensor(y) for y in outputs])
        return now.graph.rebuild(outputs)

    def refresh(self) -> None:
        """Prepare everything that depends on parameters anew."""
        with self._lock:
            self._settle(self._prepare(self._prepared))
            for plan in self._others.values():
                plan.refresh()

    def _run(self, x: Array) -> list[Array]:
        batch, prepared = len(x), self._prepared
        if batch == 0:
            xp = self.backend.xp
            return [xp.empty(v.shape_at(0), v.dtype) for v in self.graph.outputs]
        with self._arenas.lend() as arena, no_grad(), np.errstate(all="ignore"):
            threads = 0 if self._kernels is None else self._kernels.thread_count()
            seats = arena.seats(prepared.values)
            if (batch, threads) not in seats:
                views = self._views(arena, batch)
                seats[batch, threads] = _Seat(views, Recording(self._recorder))
            seat: _Seat = seats[batch, threads]
            entry = self.graph.inputs[0]
            memory = seat.views.get(entry)
            entered = self._storage.enter(x, memory, self._recorder is not None)
            scratch = arena.scratch(self._scratch_floats(threads))

            def run() -> tuple[list[Array], bool]:
                frame = Frame(
                    {**prepared.values, **seat.views, entry: entered},
                    batch,
                    scratch,
                    self._storage,
                )
                for step, pack in zip(self._steps, prepared.packs, strict=True):
                    step.run(frame, pack)
                    for value in step.done:
                        del frame.values[value]
                made = [frame.values[v] for v in self.graph.outputs]
                return made, frame.repeatable and entered is memory

            outputs = seat.recording(run, [prepared.values])
            # copies: the arena is somebody else's in a moment
            return [
                y.copy(order="K") if y.dtype == v.dtype else self._storage.converted(y, v.dtype)
                for v, y in zip(self.graph.outputs, outputs, strict=True)
            ]

    def _recompute(self, x: Array, outputs: list[Array]) -> None:
        """Compute those images directly whose results aren't all finite.

        Winograd's transforms add up the pixels of a tile before they multiply, so that a NaN or an
        infinity reaches outputs that don't see its pixel, and large numbers overflow too early.
        """
        wrong = _not_finite(self.backend.xp, outputs, len(x))
        if not wrong:
            return
        plan = self._without_winograd()._current()
        if all(v.shape[:1] == (Multiple(1),) for v in self.graph.outputs):
            for i in wrong:
                again = plan._run(x[i : i + 1])
                for y, new in zip(outputs, again, strict=True):
                    y[i : i + 1] = new
        else:
            outputs[:] = plan._run(x)

    def _without_winograd(self) -> InferencePlan:
        """Return a plan for the same model and shape that convolves directly."""
        with self._lock:
            if DIRECT not in self._others:
                self._others[DIRECT] = InferencePlan(
                    self._model, self.shape, "direct", precision=self.precision
                )
            return self._others[DIRECT]

    def _current(self) -> InferencePlan:
        """Return the plan for the model as it is now, which stays what it is."""
        now = self._now
        if now is not None and now._structure.holds() and now._prepared.holds():
            return now
        with self._lock:
            place = self.backend, self.dtype
            if self._now is None or not self._structure.holds() or home(self._model) != place:
                self._compile()
            elif not self._prepared.holds():
                self._settle(self._prepare(self._prepared))
            assert self._now is not None
            return self._now

    def _prepare(self, before: Prepared | None = None) -> Prepared:
        """Work out what depends on parameters alone.

        Device recordings find it where it was before; making one takes longer than a copy.
        """
        outside = self.graph.outside()
        recorded = self._recorder is not None and self._turns is not None
        with (
            self.backend.computing_in(self.precision),
            turn_of(self._turns),
            np.errstate(all="ignore"),
        ):
            return prepare(
                outside,
                self._fixed,
                self._steps,
                self._kept,
                self.backend,
                own=recorded,
                over=before if recorded else None,
            )

    def _other(self, batch: int) -> InferencePlan:
        """Return a plan for another batch, for a model that does something else for it."""
        with self._lock:
            if batch not in self._others:
                shape = (batch, *self.shape[1:])
                self._others[batch] = InferencePlan(
                    self._model, shape, self._algorithm, self._kernels is not None, self.precision
                )
            return self._others[batch]

    # ------------------------------------------------------------------ memory

    def _plan_memory(self) -> tuple[dict[Value, int], int]:
        """Give each value that a fast step writes its offset in the arena; return its size too."""
        last = _last_reads(self._steps, self.graph.outputs)
        first = {step.node.output: i for i, step in enumerate(self._steps) if step.buffered}
        entry = self.graph.inputs[0]
        if self._kernels is not None and entry in last:
            first[entry] = 0
        for value, number in last.items():
            if value not in first and value.kind == INTERMEDIATE and number < len(self._steps):
                self._steps[number].done.append(value)
        batch = self.shape[0]
        buffers = [
            Buffer(self._storage.bytes_at(v, batch), start, last[v]) for v, start in first.items()
        ]
        offsets, size = plan_memory(buffers)
        return dict(zip(first, offsets, strict=True)), size

    def _new_arena(self) -> Arena:
        kernels = self._kernels
        return Arena(self._arena_bytes, _nothing if kernels is None else kernels.memory)

    def _views(self, arena: Arena, batch: int) -> dict[Value, Array]:
        """Return each buffered value's memory, maps as logical (N, C, H, W)."""
        return {
            v: arena.place(o, self._storage.shape_at(v, batch), self._storage.of(v))
            for v, o in self._layout.items()
        }

    def _scratch_floats(self, threads: int) -> int:
        """Return what the steps need on so many threads, worked out once for each number."""
        if threads not in self._scratch:
            needs = (step.scratch_floats(threads, self.shape[0]) for step in self._steps)
            self._scratch[threads] = max(needs, default=0)
        return self._scratch[threads]

    def __repr__(self) -> str:
        how = ", recorded" if self.recorded else ""
        return (
            f"<inference plan of {type(self._model).__name__} for {self.shape}, {self.dtype}, "
            f"{self.precision}{how}>"
        )


@dataclass
class _Seat:
    """What a plan keeps in an arena for one batch on so many threads.

    Attributes
    ----------
    views : dict of Value to array
        The memory of values that fast steps write.
    recording : Recording
        Of the runs.
    """

    views: dict[Value, Array]
    recording: Recording[list[Array]]


def _nothing(size: int) -> Array:
    """Return the memory of a plan without plan kernels, which puts nothing there."""
    return np.empty(0, np.uint8)


class EagerPlan:
    """A model that can't be traced, called like a plan, one call at a time.

    Attributes
    ----------
    reason : str
        Why there is no plan.
    precision : {"fp32", "tf32"}
        How a GPU takes its float32 products.
    """

    def __init__(
        self, model: Module, shape: tuple[int, ...], reason: str, precision: str = "fp32"
    ) -> None:
        self.backend, self.dtype = home(model)
        self.shape = shape
        self.precision = precision
        self.reason = reason
        self._model = model
        self._lock = threading.Lock()

    def __call__(self, x: Any) -> Any:
        """Run the model eagerly, in evaluation mode; arguments and errors as of a plan."""
        self.backend, self.dtype = home(self._model)  # it may have been moved or converted
        array = received(x, self.shape, self.dtype, self.backend)
        with self._lock:  # a call that ends first would put modes back under another's feet
            modes = [(module, module.training) for module in self._model.modules()]
            self._model.eval()
            try:
                with no_grad(), use_backend(self.backend, self.precision):
                    output = self._model(Tensor(array))
            finally:
                for module, mode in modes:
                    module.__dict__["training"] = mode
        return output if isinstance(x, Tensor) else arrays_of(output)

    def refresh(self) -> None:
        """Do nothing: eager execution reads the parameters each time."""


def arrays_of(output: Any) -> Any:
    """Return tensors as arrays, whatever holds them."""
    if isinstance(output, Tensor):
        return output.data
    if isinstance(output, tuple | list):
        return type(output)(arrays_of(part) for part in output)
    if isinstance(output, dict):
        return {key: arrays_of(part) for key, part in output.items()}
    return output


def compile(
    model: Module,
    shape: Sequence[int],
    algorithm: str = "auto",
    fallback: str | None = None,
    precision: str | None = None,
) -> InferencePlan | EagerPlan:
    """Make a plan: the model in evaluation mode, faster than eager and with its results.

    Parameters
    ----------
    model : Module
        Stays in use: a plan reads its parameters, and sees when they change.
    shape : sequence of int
        Of the largest batch, for instance (8, 3, 224, 224); smaller ones are taken too.
    algorithm : {"auto", "im2col", "direct", "winograd", "wgmma"}
        How convolutions are computed where there is a choice; "auto" chooses by their shapes.
    fallback : {None, "eager"}
        What to do with a model that can't be traced, since its forward depends on the values of
        its tensors: raise an error, or run it eagerly.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        What a float32 model is computed in: float32; TF32; or activations and copies of the
        weights in 16 bits, while sums, inputs and results stay float32. None: as the backend takes
        float32 products now, see `npresnet.set_backend`. All but ``"fp32"`` need a GPU, ``"tf32"``
        and ``"bf16"`` one of compute capability 8.0 or later.

    Returns
    -------
    InferencePlan or EagerPlan
        Called with an array or a Tensor.

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
    try:
        return InferencePlan(model, sizes, algorithm, precision=precision)
    except GraphError as error:
        takes_fallback(fallback, precision, error)
        return EagerPlan(model, sizes, str(error), precision)


def _not_finite(xp: Any, outputs: list[Array], images: int) -> list[int]:
    """Return the images that have a NaN or an infinity in some output; all, where none is told."""
    found: set[int] = set()
    for y in outputs:
        if y.dtype.kind != "f" or bool((finite := xp.isfinite(y)).all()):
            continue
        if y.shape[:1] != (images,):
            return list(range(images))
        found.update(i for i in range(images) if not bool(finite[i].all()))
    return sorted(found)


def _by_parameters(graph: Graph) -> tuple[list[Node], list[Node]]:
    """Part the nodes into those that depend on parameters alone, and those that inputs reach."""
    flowing_values = set(graph.inputs)
    fixed, flowing = [], []
    for node in graph.nodes:
        # a dropout that a model leaves on draws anew each time
        varies = node.operation is Dropout or grows(node.attributes)
        if varies or flowing_values.intersection(node.inputs):
            flowing_values.add(node.output)
            flowing.append(node)
        else:
            fixed.append(node)
    return fixed, flowing


def _last_reads(steps: list[Step], outputs: list[Value]) -> dict[Value, int]:
    """Return the number of the last step that needs each value; results outlive all steps."""
    last: dict[Value, int] = {}
    for number, step in enumerate(steps):
        last.update(dict.fromkeys((*step.reads, step.node.output), number))
    last.update(dict.fromkeys(outputs, len(steps)))
    # What a step didn't write into memory given to it may be a view of what it read.
    for step in reversed(steps):
        if not step.buffered:
            for value in step.reads:
                last[value] = max(last[value], last[step.node.output])
    return last


def _kept(graph: Graph, steps: list[Step]) -> list[Value]:
    """Return what steps read, or the plan returns, without computing it."""
    made = {step.node.output for step in steps} | set(graph.inputs)
    wanted = dict.fromkeys(value for step in steps for value in step.reads)
    wanted.update(dict.fromkeys(graph.outputs))
    return [value for value in wanted if value not in made]
