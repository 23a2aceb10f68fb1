"""OnnxModel: the graph of an ONNX file as a Module of our operations."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npresnet.backend import current_backend, for_arrays, use_backend
from npresnet.errors import NpresnetError, OnnxError, ShapeError
from npresnet.export.operators import Call, Operator
from npresnet.nn import Module, Parameter
from npresnet.tape import Operation, no_grad, tracing
from npresnet.tensor import Tensor, as_tensor
from npresnet_kernels.contract import Array

__all__ = ["NodeSpec", "OnnxModel", "OnnxNode", "ValueSpec"]

_FOLDED = 4096  # elements: larger constants are never multiplied with one another
_DEEPEST = 16  # dots in the name of a constant that become modules


@dataclass(frozen=True)
class ValueSpec:
    """What an input or output of the graph is declared to be.

    Attributes
    ----------
    name : str
        In the file.
    shape : tuple of int or str or None, or None
        A number, a name or None for each dimension; None if nothing is said.
    """

    name: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class NodeSpec:
    """A node of the file, checked against the table of operators."""

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def label(self) -> str:
        """What messages call the node."""
        return f"node {self.name!r} ({self.operator.name})"


class OnnxNode(Module):
    """A node as a module; its class is named after its operator."""

    def __init__(self, spec: NodeSpec, opset: int) -> None:
        super().__init__()
        self._spec = spec
        self._opset = opset
        self._outputs = max((i + 1 for i, name in enumerate(spec.outputs) if name), default=0)

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """Return the node's outputs; None is a missing input, an array a known one.

        Raises
        ------
        NpresnetError
            The operation's own, with the node's name; anything else as an OnnxError.
        """
        spec = self._spec
        backend = for_arrays([t.data for t in inputs if isinstance(t, Tensor)])
        call = Call(self._opset, self._outputs, self.training, backend)
        try:
            result = spec.operator.function(call, *inputs, **spec.attributes)
        except NpresnetError as error:
            raise type(error)(f"{spec.label}: {error}") from None
        except (ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise OnnxError(f"{spec.label}: {' '.join(str(error).split())}") from None
        return result if isinstance(result, tuple) else (result,)

    def extra_repr(self) -> str:
        """Show the attributes."""
        return ", ".join(f"{k}={v}" for k, v in self._spec.attributes.items())


@functools.cache
def _kind(operator: str) -> type[OnnxNode]:
    """Return the class of an operator's modules."""
    return type(operator, (OnnxNode,), {"__module__": __name__})


@dataclass
class _Step:
    """A node, where its inputs come from, and what nobody needs behind it."""

    module: OnnxNode
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: list[str] = field(default_factory=list)


class OnnxModel(Module):
    """The network of an ONNX file; :func:`~npresnet.export.load_onnx` makes it.

    The constants of its layers are parameters (running statistics are buffers). One whose name
    has dots, as exporters of state dicts write them (``layer1.0.conv1.weight``), keeps that name;
    others are named after their node and torch's name for their role.

    Attributes
    ----------
    inputs, outputs : tuple of ValueSpec
        What the file says of them.
    opset : int
        The version of the operators.
    producer : str
        The program that wrote the file.
    """

    def __init__(
        self,
        inputs: Sequence[ValueSpec],
        outputs: Sequence[ValueSpec],
        nodes: Sequence[NodeSpec],
        constants: dict[str, Array],
        opset: int,
        producer: str = "",
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.opset, self.producer = opset, producer
        self._constants = dict(constants)
        self._owners: dict[str, tuple[dict[str, Any], str]] = {}
        self._taken: Counter[int] = Counter()
        self._stems: Counter[str] = Counter()
        self._steps = [self._add(spec) for spec in nodes]
        self._plan_ends()

    # ------------------------------------------------------------------ building

    def _add(self, spec: NodeSpec) -> _Step:
        """Make a node's module, with the parameters and buffers that it is the first to use."""
        kept = dict(self._kept(spec))
        dotted = {name: _dotted(name) for name in kept}
        places = {path for path, _ in filter(None, dotted.values())}
        module = _kind(spec.operator.name)(spec, self.opset)
        path = places.pop() if len(places) == 1 else ()
        if not path or self._find(path) is not None:
            path = (self._free_name(spec),)
        self._make(path[:-1]).add_module(path[-1], module)
        for name, (role, is_buffer) in kept.items():
            owner: Module = module
            place = dotted[name]
            if place is not None:
                owner, role = self._make(place[0]), place[1]
            array = self._constants.pop(name)
            self._taken[id(array)] += 1
            if self._taken[id(array)] > 1:  # exporters give equal tensors one memory
                array = array.copy()
            placed = current_backend().asarray(array)
            if is_buffer:
                owner.register_buffer(role, Tensor(placed))
            else:
                owner.register_parameter(role, Parameter(placed))
            self._owners[name] = (owner._buffers if is_buffer else owner._parameters, role)
        return _Step(module, spec.inputs, spec.outputs)

    def _kept(self, spec: NodeSpec) -> Iterator[tuple[str, tuple[str, bool]]]:
        """Yield the constants that a node is the first to learn or keep, with their roles."""
        for roles, is_buffer in ((spec.operator.parameters, False), (spec.operator.buffers, True)):
            for position, role in roles.items():
                name = spec.inputs[position] if position < len(spec.inputs) else ""
                array = self._constants.get(name)
                if array is None or array.dtype.kind != "f":
                    continue
                if array.size > 1 or spec.operator.single:
                    yield name, (role, is_buffer)

    def _find(self, path: tuple[str, ...]) -> Module | None:
        module: Module | None = self
        for part in path:
            module = None if module is None else module._modules.get(part)
        return module

    def _make(self, path: tuple[str, ...]) -> Module:
        """Return the module at a path, making what is missing."""
        module: Module = self
        for part in path:
            child = module._modules.get(part)
            if child is None:
                child = Module()
                module.add_module(part, child)
            module = child
        return module

    def _free_name(self, spec: NodeSpec) -> str:
        plain = re.sub(r"[^0-9A-Za-z_]+", "_", spec.name)[:100].strip("_")
        stem = name = plain or f"{spec.operator.name}_{len(self._modules)}"
        while name in self._modules:
            self._stems[stem] += 1
            name = f"{stem}_{self._stems[stem] + 1}"
        return name

    def _plan_ends(self) -> None:
        """Note behind which step each value is no longer needed."""
        last: dict[str, _Step] = {}
        for step in self._steps:
            last.update(dict.fromkeys((*step.inputs, *step.outputs), step))
        results = {spec.name for spec in self.outputs}
        for name, step in last.items():
            if name not in results and name not in self._constants:
                step.done.append(name)

    # ------------------------------------------------------------------ running

    def forward(self, *inputs: Any) -> Any:
        """Run the graph.

        Parameters
        ----------
        *inputs : Tensor or array
            As many as the graph has, of the declared shapes; another batch is let pass.

        Returns
        -------
        Tensor or tuple of Tensor
            The graph's output, or its outputs.

        Raises
        ------
        ShapeError
            If inputs are missing or have another shape than the file declares.
        NpresnetError
            What an operation raises, with the node's name.
        """
        if len(inputs) != len(self.inputs):
            names = ", ".join(spec.name for spec in self.inputs)
            raise ShapeError(
                f"the graph takes {len(self.inputs)} inputs ({names}), got {len(inputs)}"
            )
        values: dict[str, Any] = dict(self._constants)
        for spec, given in zip(self.inputs, inputs, strict=True):
            values[spec.name] = _entered(spec, given)
        for step in self._steps:
            arguments = [self._value(name, values) for name in step.inputs]
            results = _run(step.module, arguments)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.done:
                values.pop(name, None)
        found = tuple(as_tensor(self._value(spec.name, values)) for spec in self.outputs)
        return found[0] if len(found) == 1 else found

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        if name in self._owners:
            table, role = self._owners[name]
            return table[role]
        if name and name not in values:
            raise OnnxError(f"nothing gave the value {name!r}")
        return values[name] if name else None


def _dotted(name: str) -> tuple[tuple[str, ...], str] | None:
    """Part ``layer1.0.conv1.weight`` into a path and a name; None if it is no such name."""
    *path, role = name.split(".")
    if 0 < len(path) <= _DEEPEST and all(path) and role and len(name) <= 300:
        return tuple(path), role
    return None


def _entered(spec: ValueSpec, given: Any) -> Tensor:
    """Return an input as a tensor, checked against what the file declares; any batch may come."""
    x = as_tensor(given)
    declared = spec.shape
    if declared is not None and (
        len(declared) != x.ndim
        or any(
            isinstance(n, int) and n != m for n, m in zip(declared[1:], x.shape[1:], strict=True)
        )
    ):
        sizes = ", ".join("?" if n is None else str(n) for n in declared)
        raise ShapeError(f"the graph's input {spec.name!r} is ({sizes}), got shape {x.shape}")
    return x.float() if x.dtype == np.float16 else x


def _run(module: OnnxNode, inputs: list[Any]) -> tuple[Any, ...]:
    """Run a node; one that gets known numbers alone gives known numbers."""
    given = [v for v in inputs if v is not None]
    flowing = any(isinstance(v, Tensor) for v in given)
    if flowing or sum(v.size for v in given) > _FOLDED:
        outputs: tuple[Any, ...] = module(*(inputs if flowing else map(_lifted, inputs)))
        return outputs
    with use_backend("reference"), no_grad(), tracing(_Nobody()), np.errstate(all="ignore"):
        return tuple(v.data if isinstance(v, Tensor) else v for v in module.forward(*inputs))


def _lifted(value: Any) -> Any:
    """Return a large constant as a tensor."""
    return as_tensor(value) if value is not None and value.size > _FOLDED else value


class _Nobody:
    """A tracer that notes nothing: known numbers aren't part of a graph."""

    def record(
        self,
        operation: type[Operation],
        inputs: tuple[Any, ...],
        attributes: dict[str, Any],
        output: Any,
    ) -> None:
        """Do nothing."""
