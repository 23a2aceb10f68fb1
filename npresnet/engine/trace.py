"""Tracing: run a model once on arrays without numbers and note its operations.

The run costs milliseconds and leaves nothing behind: kernels only work out shapes, running
statistics stay, counters are put back. What the model does beyond operations (comparing, reading
values, drawing on state) can't be repeated by a graph and is an error.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from npresnet.backend import Backend, for_arrays, use_backend
from npresnet.engine.batch import Mismatch, generalise, resolve
from npresnet.engine.graph import BUFFER, CONSTANT, INPUT, PARAMETER, Graph, Node, Value
from npresnet.engine.operations import Detach
from npresnet.engine.shape_kernels import ShapeKernels
from npresnet.engine.stand_in import StandIn, stand_in, unreadable
from npresnet.errors import GraphError, NpresnetError
from npresnet.nn import Module
from npresnet.random import seeded
from npresnet.tape import Operation, enable_grad, no_grad, tracing
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array, KernelSet

__all__ = ["trace", "trace_any_batch"]


class _TracingNumpy:
    """numpy, but for ``asarray``, which must let stand-ins be."""

    asarray = staticmethod(np.asanyarray)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _TracingBackend(Backend):
    """Takes arrays of any place and computes shapes; refuses to show the model's numbers."""

    def __init__(self, real: Backend, hidden: set[int]) -> None:
        super().__init__(real.name)
        self._real = real
        self._hidden = hidden
        self._kernels = cast(KernelSet, ShapeKernels)
        self._xp = _TracingNumpy()

    @property
    def xp(self) -> Any:
        return self._xp

    @property
    def device(self) -> str:
        return self._real.device

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray) or self._real.owns(array)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        if isinstance(value, StandIn):
            return value if dtype is None else value.astype(dtype, copy=False)
        return super().asarray(value, dtype)

    def to_numpy(self, array: Array) -> Array:
        if isinstance(array, StandIn) or id(array) in self._hidden:
            unreadable()
        return self._real.to_numpy(array)


class _Recorder:
    """Builds a graph from the operations that go by."""

    def __init__(self, model: Module) -> None:
        self.nodes: list[Node] = []
        self.named: dict[int, Value] = {}
        for kind, tensors in (
            (PARAMETER, model.named_parameters()),
            (BUFFER, model.named_buffers()),
        ):
            for name, tensor in tensors:
                self.named[id(tensor)] = _outside(kind, name, tensor)
        # The tensors and arrays stay alive, so that no other gets the same id.
        self.seen: dict[int, tuple[Tensor, Value]] = {}
        self.arrays: dict[int, tuple[Array, Value]] = {}

    def add(self, tensor: Tensor, value: Value) -> None:
        """Note which value a tensor is."""
        self.seen[id(tensor)] = (tensor, value)
        self.arrays[id(tensor.data)] = (tensor.data, value)

    def value(self, tensor: Tensor) -> Value:
        """Return the value that a tensor is."""
        if id(tensor) in self.seen:
            return self.seen[id(tensor)][1]
        if id(tensor) in self.named:
            return self.named[id(tensor)]
        if id(tensor.data) in self.arrays:  # x.detach(): the same numbers, off the tape
            old = self.arrays[id(tensor.data)][1]
            value = Value(old.shape, old.dtype)
            self.nodes.append(Node(Detach, (old,), {}, value))
        elif isinstance(tensor.data, StandIn):
            raise GraphError(
                "the model can't be traced: its forward uses a result that no operation recorded "
                '(a comparison, argmax, or work on .data): pass fallback="eager" to run it eagerly'
            )
        else:
            kind = PARAMETER if tensor.requires_grad else CONSTANT
            value = _outside(kind, "", tensor)
        self.seen[id(tensor)] = (tensor, value)
        return value

    def record(
        self,
        operation: type[Operation],
        inputs: tuple[Any, ...],
        attributes: dict[str, Any],
        output: Any,
    ) -> None:
        """Note an operation; called by the tape."""
        if _holds_stand_in(attributes):
            unreadable()
        values = tuple(None if t is None else self.value(t) for t in inputs)
        value = Value(output.shape, output.dtype, needs_grad=output.requires_grad)
        self.nodes.append(Node(operation, values, attributes, value))
        output.data = stand_in(output.shape, output.dtype)  # one of its own, known by its identity
        self.add(output, value)


def trace(model: Module, shape: tuple[int, ...], dtype: Any, training: bool = False) -> Graph:
    """Return the graph of a model for one shape of input.

    Parameters
    ----------
    model : Module
        Its mode doesn't matter, and it comes back unchanged.
    shape : tuple of int
        Of the input, batch first.
    dtype : dtype
        Of the input.
    training : bool
        Whether to trace its training mode, noting where gradients flow.

    Raises
    ------
    GraphError
        If the model does something that a graph can't repeat.
    NpresnetError
        Whatever the model raises for an input of this shape.
    """
    tensors = [*model.parameters(), *model.buffers()]
    real = for_arrays([t.data for t in tensors])
    with _in_main_memory(model, real):
        return _traced(model, real, shape, dtype, training)


def _traced(
    model: Module, real: Backend, shape: tuple[int, ...], dtype: Any, training: bool
) -> Graph:
    """Return the graph of a model whose numbers are NumPy's."""
    recorder = _Recorder(model)
    hidden = {id(t.data) for t in (*model.parameters(), *model.buffers())}
    backend = _TracingBackend(real, hidden)
    x = Tensor(stand_in(shape, dtype))
    entry = Value(tuple(shape), x.dtype, INPUT, "x")
    recorder.add(x, entry)
    _report_hooks(model)
    counters: list[tuple[Tensor, int]] = []
    with (
        seeded(0),  # a dropout's draws here are not the user's
        _mode(model, training),
        use_backend(backend),
        enable_grad() if training else no_grad(),
        tracing(recorder),
        _restored(model, counters, training),
    ):
        returned = model(x)
        leaves: list[Tensor] = []
        rebuild = _leaves(returned, leaves)
        outputs = [recorder.value(t) for t in leaves]
    return Graph([entry], outputs, recorder.nodes, shape[0], counters, rebuild)


def trace_any_batch(
    model: Module, shape: tuple[int, ...], dtype: Any, training: bool = False
) -> Graph:
    """Return the model's graph with sizes that grow with the batch written as multiples of it.

    Where the model does something else for another batch (``graph.batch`` is not None then), the
    graph holds for the batch in ``shape`` only.
    """
    graph = trace(model, shape, dtype, training)
    batch, rest = shape[0], shape[1:]
    try:
        general = _generalised(graph, trace(model, (batch + 1, *rest), dtype, training), batch)
    except (Mismatch, NpresnetError):
        return graph
    if batch == 1:
        return general
    try:  # squeeze() and the like do something else for a single image
        return general if _agree(general, trace(model, (1, *rest), dtype, training), 1) else graph
    except NpresnetError:
        # training can need more than one image; then so does the plan
        return general if training else graph


def _agree(general: Graph, traced: Graph, batch: int) -> bool:
    """Return whether a graph of any batch is, for this batch, what was traced."""
    return len(general.nodes) == len(traced.nodes) and all(
        a.operation is b.operation
        and a.output.shape_at(batch) == b.output.shape
        and repr(resolve(a.attributes, batch)) == repr(b.attributes)
        for a, b in zip(general.nodes, traced.nodes, strict=True)
    )


def _generalised(one: Graph, other: Graph, batch: int) -> Graph:
    """Compare traces at ``batch`` and ``batch + 1``."""
    if len(one.nodes) != len(other.nodes) or len(one.outputs) != len(other.outputs):
        raise Mismatch
    pairs = {a: b for a, b in zip(one.inputs, other.inputs, strict=True)}
    made: dict[Value, Value] = {}

    def common(a: Value | None, b: Value | None) -> Value | None:
        if a is None or b is None:
            if a is not b:
                raise Mismatch
            return None
        if a.source is not None:
            same = b.source is a.source or (
                b.source is not None
                and a.name == b.name == ""
                and generalise(a.source.data, b.source.data, batch) is not None
            )
            if not same:
                raise Mismatch
            return a
        if pairs.get(a) is not b:
            raise Mismatch
        return made[a]

    def general(a: Value, b: Value) -> Value:
        shape = generalise(a.shape, b.shape, batch)
        pairs[a] = b
        made[a] = Value(shape, a.dtype, a.kind, a.name, None, a.needs_grad)
        return made[a]

    inputs = [general(a, b) for a, b in zip(one.inputs, other.inputs, strict=True)]
    nodes = []
    for a, b in zip(one.nodes, other.nodes, strict=True):
        if a.operation is not b.operation or len(a.inputs) != len(b.inputs):
            raise Mismatch
        operands = tuple(common(v, w) for v, w in zip(a.inputs, b.inputs, strict=True))
        attributes = generalise(a.attributes, b.attributes, batch)
        nodes.append(Node(a.operation, operands, attributes, general(a.output, b.output)))
    outputs = [cast(Value, common(a, b)) for a, b in zip(one.outputs, other.outputs, strict=True)]
    return Graph(inputs, outputs, nodes, None, one.counters, one.rebuild)


def _outside(kind: str, name: str, tensor: Tensor) -> Value:
    return Value(tensor.shape, tensor.dtype, kind, name, tensor, tensor.requires_grad)


def _holds_stand_in(value: Any) -> bool:
    """Return whether an attribute was worked out from the numbers that flow."""
    if isinstance(value, dict):
        return any(_holds_stand_in(part) for part in value.values())
    if isinstance(value, tuple | list):
        return any(_holds_stand_in(part) for part in value)
    return isinstance(value, StandIn)


def _leaves(returned: Any, leaves: list[Tensor]) -> Callable[[list[Any]], Any]:
    """Collect the tensors of a return value; return a function that puts others in their place."""
    if isinstance(returned, Tensor):
        place = len(leaves)
        leaves.append(returned)
        return lambda outputs: outputs[place]
    if type(returned) in (tuple, list):
        makers = [_leaves(part, leaves) for part in returned]
        kind = type(returned)
        return lambda outputs: kind(make(outputs) for make in makers)
    if type(returned) is dict:
        named = {key: _leaves(part, leaves) for key, part in returned.items()}
        return lambda outputs: {key: make(outputs) for key, make in named.items()}
    raise GraphError(
        f"the model can't be traced: its forward returns {type(returned).__name__}, not tensors "
        'or tuples, lists and dicts of them: pass fallback="eager" to run it eagerly'
    )


def _report_hooks(model: Module) -> None:
    """Warn of hooks: what they return is traced, but they aren't called again."""
    hooked = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.__dict__["_forward_hooks"] or module.__dict__["_forward_pre_hooks"]
    ]
    if hooked:
        warnings.warn(
            f"a plan does what the forward hooks of {', '.join(hooked[:3])} return, but doesn't "
            "call them when it runs: remove them, or run the model eagerly",
            RuntimeWarning,
            stacklevel=4,
        )


@contextlib.contextmanager
def _in_main_memory(model: Module, real: Backend) -> Iterator[None]:
    """Let a device's numbers be NumPy's for a while: stand-ins can't be mixed with a device's.

    Those of parameters are never looked at; buffers are compared, to see which ones change.
    """
    before = [
        (tensor, tensor.data)
        for tensor in (*model.parameters(), *model.buffers())
        if not isinstance(tensor.data, np.ndarray)
    ]
    buffers = {id(buffer) for buffer in model.buffers()}
    try:
        for tensor, array in before:
            if id(tensor) in buffers:
                tensor.data = real.to_numpy(array)
            else:
                tensor.data = stand_in(array.shape, array.dtype)
        yield
    finally:
        for tensor, array in before:
            tensor.data = array


@contextlib.contextmanager
def _mode(model: Module, training: bool) -> Iterator[None]:
    """Put the model into evaluation for a while; in training, its own modes hold."""
    before = [(module, module.training) for module in model.modules()]
    if not training:
        for module, _ in before:
            module.__dict__["training"] = False
    try:
        yield
    finally:
        for module, mode in before:
            module.__dict__["training"] = mode


@contextlib.contextmanager
def _restored(model: Module, counters: list[tuple[Tensor, int]], training: bool) -> Iterator[None]:
    """Put buffers back; note those that training counts up."""
    before = [
        (name, buffer, buffer.data, buffer.data.copy()) for name, buffer in model.named_buffers()
    ]
    try:
        yield
        for name, buffer, array, old in before:
            changed = buffer.data is not array or bool(((array != old) & (array == array)).any())
            if not changed:
                continue
            steps = array - old if buffer.data is array and array.dtype.kind == "i" else None
            if not training or steps is None or steps.min() != steps.max():
                raise GraphError(
                    f"the model can't be traced: its forward changes the buffer {name!r}, which a "
                    'plan would not repeat: pass fallback="eager" to run it eagerly'
                )
            counters.append((buffer, int(steps.max())))
    finally:
        for _, buffer, array, old in before:
            buffer.data = array
            if array.size and bool((array != old).any()):
                array[...] = old
